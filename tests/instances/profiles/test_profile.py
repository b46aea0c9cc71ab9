from slotproxy.instances.profiles import catalog


def test_where_one_process_that_batches_is_better_the_profile_says_how() -> None:
    sole = {name for name in catalog.names() if catalog.load(name).better_in_one_process}
    assert sole == {"mlx_lm.server", "mlxcel-server", "ollama", "tabbyapi", "tgi", "vllm"}


def test_an_instance_gets_as_many_ports_as_its_arguments_name() -> None:
    assert {name: catalog.load(name).ports for name in ("tgi", "vllm")} == {"tgi": 3, "vllm": 1}


def test_which_engines_can_be_told_the_context_of_a_request() -> None:
    assert [name for name in catalog.names() if not catalog.load(name).takes_ctx] == ["mlx_lm.server"]


def test_an_engine_inherits_what_its_profile_neither_hides_nor_keeps_and_nothing_of_ours() -> None:
    ollama = catalog.load("ollama")
    assert {"SLOTPROXY_", "OLLAMA_"} <= set(ollama.hidden_prefixes)
    environment = {"OLLAMA_MODELS": "/store", "OLLAMA_HOST": "x", "SLOTPROXY_API_KEY": "secret", "HOME": "/home/me"}
    assert ollama.visible(environment) == {"OLLAMA_MODELS": "/store", "HOME": "/home/me"}


def test_the_rule_of_the_context_follows_from_what_the_engine_is_told() -> None:
    rules = {name: catalog.load(name).context_rule for name in ("llama-server", "ds4-server", "mlx_lm.server")}
    assert rules == {"llama-server": "divided", "ds4-server": "each", "mlx_lm.server": "unlimited"}
