"""What model files say.

`model` checks that a model is there and whole before anything is started; it asks `gguf_facts` for the header of a GGUF
file and `config_facts` for the config.json of a model directory. `shape` computes from their numbers what a token of
context costs. `demo` fetches the demo model into the cache.
A path comes in, `ModelFacts` goes out. Only the demo model touches the network.
"""
