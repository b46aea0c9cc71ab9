"""Conversations, and which engine has their KV."""
