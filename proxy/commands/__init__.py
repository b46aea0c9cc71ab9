"""The commands that show something and end. Each is loaded only when it is asked for."""
