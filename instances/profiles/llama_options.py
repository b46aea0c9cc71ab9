"""llama-server's options, each with the field of the wheel's `CommonParams` that it sets. Pure.

As complete as the fields allow; what llama-server takes and the wheel has no field for, and what would break an
instance, is in REFUSED with the reason.
"""

import json

from slotproxy.instances.profiles import llama_option as row
from slotproxy.instances.profiles import llama_values as values
from slotproxy.instances.profiles.llama_option import COUNT, NGRAM, Option
from slotproxy.instances.profiles.llama_values import Content, Directory, Setting

CACHE_TYPES = "ggml_type", "GGML_TYPE_", "f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1"
CACHE_TYPE = values.choice(*CACHE_TYPES)
POOLING = values.choice("llama_pooling_type", "LLAMA_POOLING_TYPE_", "none", "mean", "cls", "last", "rank")
RANK = Setting(field="pooling_type", value=POOLING("rank"))
LOAD = values.choice(
    "llama_load_mode",
    "LLAMA_LOAD_MODE_",
    *("auto", "none", "mmap", "mlock", "mmap+mlock"),
    dio="DIRECT_IO",
)
LAZY = values.choice("llama_lazy_mode", "LLAMA_LAZY_MODE_", "on", "auto", "off")
REASONING = values.choice(
    "common_reasoning_format", "COMMON_REASONING_FORMAT_", "none", "auto", "deepseek", "deepseek-legacy"
)

OPTIONS: tuple[Option, ...] = (
    # The server
    row.text("-m --model", "model.path", "FILE"),
    row.takes("-a --alias", "model_alias", values.set_of_items, "NAME,..."),
    row.takes("--tags", "model_tags", values.set_of_items, "NAME,...", added=True),
    row.takes("--host", "hostnames", values.items, "ADDRESS"),
    row.takes("--port", "port", values.whole(0, 65535)),
    row.whole("-np --parallel", "n_parallel", 1),
    Option(flags=("-to", "--timeout"), hint="N", settings=row.timeout),
    row.whole("--threads-http", "n_threads_http", -1),
    row.whole("--sse-ping-interval", "sse_ping_interval", -1),
    row.whole("--sleep-idle-seconds", "sleep_idle_seconds", -1),
    row.on("--metrics", "endpoint_metrics"),
    row.on("--props", "endpoint_props"),
    row.takes("--slot-save-path", "slot_save_path", Directory, "DIRECTORY"),
    row.real("-sps --slot-prompt-similarity", "slot_prompt_similarity"),
    row.text("--path", "public_path", "DIRECTORY"),
    row.takes("--media-path", "media_path", Directory, "DIRECTORY"),
    *row.either("--ui --webui", "--no-ui --no-webui", "ui"),
    row.text("--ui-config --webui-config", "ui_config_json", "JSON"),
    row.takes("--ui-config-file --webui-config-file", "ui_config_json", Content, "FILE"),
    *row.either("--ui-mcp-proxy --webui-mcp-proxy", "--no-ui-mcp-proxy --no-webui-mcp-proxy", "ui_mcp_proxy"),
    Option(flags=("--cors-origins",), hint="ORIGINS", settings=row.origins),
    row.text("--cors-methods", "cors_methods", "METHODS"),
    row.text("--cors-headers", "cors_headers", "HEADERS"),
    *row.either("--cors-credentials", "--no-cors-credentials", "cors_credentials"),
    row.takes("--tools", "server_tools", values.items, "NAME,..."),
    row.text("--tools-runtime", "server_tools_runtime"),
    row.text("--mcp-servers-config", "mcp_servers_config", "FILE"),
    row.text("--mcp-servers-json", "mcp_servers_json", "JSON"),
    row.sets("-ag --agent", Setting(field="server_tools", value=["all"]), Setting(field="ui_mcp_proxy", value=True)),
    row.sets("-no-ag --no-agent", Setting(field="server_tools", value=[]), Setting(field="ui_mcp_proxy", value=False)),
    row.on("--offline", "offline"),
    row.text("--log-prompts-dir", "path_prompts_log_dir", "DIRECTORY"),
    row.whole("-lv --verbosity --log-verbosity", "verbosity"),
    row.on("-v --verbose --log-verbose", "verbosity", values.LARGEST),
    # Context and memory
    row.whole("-c --ctx-size", "n_ctx", 0),
    row.whole("-n --predict --n-predict", "n_predict", -1),
    row.whole("-b --batch-size", "n_batch", 1),
    row.whole("-ub --ubatch-size", "n_ubatch", 1),
    row.whole("--keep", "n_keep", -1),
    row.whole("-ctxcp --ctx-checkpoints --swa-checkpoints", "n_ctx_checkpoints", 0),
    row.whole("-cms --checkpoint-min-step", "checkpoint_min_step", 0),
    row.whole("-cram --cache-ram", "cache_ram_mib", -1),
    row.whole("--cache-reuse", "n_cache_reuse", 0),
    row.whole("--kv-unified-per-slot", "kv_unified_per_slot", 0),
    *row.either("-kvu --kv-unified", "-no-kvu --no-kv-unified", "kv_unified"),
    *row.either("--cache-idle-slots", "--no-cache-idle-slots", "cache_idle_slots"),
    *row.either("--cache-prompt", "--no-cache-prompt", "cache_prompt"),
    *row.either("--context-shift", "--no-context-shift", "ctx_shift"),
    *row.either("-cb --cont-batching", "-nocb --no-cont-batching", "cont_batching"),
    row.on("--swa-full", "swa_full"),
    row.takes("-ctk --cache-type-k", "cache_type_k", CACHE_TYPE, "TYPE"),
    row.takes("-ctv --cache-type-v", "cache_type_v", CACHE_TYPE, "TYPE"),
    row.takes("-fa --flash-attn", "flash_attn_type", values.flash_attention, "on|off|auto"),
    *row.either("-kvo --kv-offload", "-nkvo --no-kv-offload", "no_kv_offload", reverse=True),
    *row.either("--op-offload", "--no-op-offload", "no_op_offload", reverse=True),
    *row.either("--repack", "-nr --no-repack", "no_extra_bufts", reverse=True),
    row.on("--no-host", "no_host"),
    row.takes("-lm --load-mode", "load_mode", LOAD, "MODE"),
    row.on("--mmap", "load_mode", LOAD("mmap")),
    row.on("--no-mmap", "load_mode", LOAD("none")),
    row.on("--mlock", "load_mode", LOAD("mmap+mlock")),
    row.takes(
        "-lzm --lazy-mode",
        "lazy_mode",
        values.choice("llama_lazy_mode", "LLAMA_LAZY_MODE_", "on", "auto", "off"),
        "MODE",
    ),
    row.on("--check-tensors", "check_tensors"),
    *row.either("--warmup", "--no-warmup", "warmup"),
    *row.either("--perf", "--no-perf", "no_perf", reverse=True),
    *row.either("-e --escape", "--no-escape", "escape"),
    row.on("-sp --special", "special"),
    row.takes("-r --reverse-prompt", "antiprompt", lambda text: [text], "TEXT", added=True),
    # Processor and devices
    *row.processor(row.own, "cpuparams"),
    *row.processor(row.batch, "cpuparams_batch"),
    row.takes(
        "--numa",
        "numa",
        values.choice("ggml_numa_strategy", "GGML_NUMA_STRATEGY_", "distribute", "isolate", "numactl"),
        "TYPE",
    ),
    row.takes("-ngl --gpu-layers --n-gpu-layers", "n_gpu_layers", values.layers, "N|auto|all"),
    row.takes(
        "-sm --split-mode",
        "split_mode",
        values.choice("llama_split_mode", "LLAMA_SPLIT_MODE_", "none", "layer", "row", "tensor"),
        "MODE",
    ),
    row.takes("-ts --tensor-split", "tensor_split", values.shares, "N,..."),
    row.whole("-mg --main-gpu", "main_gpu", 0),
    row.takes("-fit --fit", "fit_params", values.switch, "on|off"),
    row.takes("-fitt --fit-target", "fit_params_target", values.mebibytes, "MIB,..."),
    row.whole("-fitc --fit-ctx", "fit_params_min_ctx", 0),
    row.takes("-ot --override-tensor", "tensor_buft_overrides", str, "PATTERN=BUFFER,...", added=True),
    row.sets("-cmoe --cpu-moe", Setting(field="tensor_buft_overrides", value=f"{values.EXPERTS}=CPU", added=True)),
    row.takes("-ncmoe --n-cpu-moe", "tensor_buft_overrides", values.experts_on_cpu, added=True),
    row.takes("-ncffn --n-cpu-ffn", "tensor_buft_overrides", values.dense_on_cpu, added=True),
    row.takes("--moe-cache-mib", "moe_cache_size", lambda text: COUNT(text) << 20),
    # RoPE
    row.takes(
        "--rope-scaling",
        "rope_scaling_type",
        values.choice("llama_rope_scaling_type", "LLAMA_ROPE_SCALING_TYPE_", "none", "linear", "yarn"),
        "TYPE",
    ),
    row.takes("--rope-scale", "rope_freq_scale", lambda text: 1.0 / values.above_nothing(text)),
    row.real("--rope-freq-base", "rope_freq_base"),
    row.real("--rope-freq-scale", "rope_freq_scale"),
    row.whole("--yarn-orig-ctx", "yarn_orig_ctx", 0),
    row.real("--yarn-ext-factor", "yarn_ext_factor"),
    row.real("--yarn-attn-factor", "yarn_attn_factor"),
    row.real("--yarn-beta-slow", "yarn_beta_slow"),
    row.real("--yarn-beta-fast", "yarn_beta_fast"),
    # What is loaded beside the model
    row.takes("--lora", "lora_adapters", values.loras, "FILE,...", added=True),
    row.takes("--lora-scaled", "lora_adapters", values.scaled_loras, "FILE:SCALE,...", added=True),
    row.on("--lora-init-without-apply", "lora_init_without_apply"),
    row.text("-mm --mmproj", "mmproj.path", "FILE"),
    *row.either("--mmproj-auto", "--no-mmproj --no-mmproj-auto", "no_mmproj", reverse=True),
    *row.either("--mmproj-offload", "--no-mmproj-offload", "mmproj_use_gpu"),
    row.text("-mmdev --mmproj-device", "mmproj_device", "DEVICE"),
    row.whole("--image-min-tokens", "image_min_tokens"),
    row.whole("--image-max-tokens", "image_max_tokens"),
    row.whole("--mtmd-batch-max-tokens", "mtmd_batch_max_tokens", 1),
    row.real("--video-fps", "video_fps"),
    row.whole("--video-timestamp-interval", "video_timestamp_interval_ms", 0),
    row.text("--video-ffmpeg-dir", "video_ffmpeg_bin_dir", "DIRECTORY"),
    # Embeddings
    row.on("--embedding --embeddings", "embedding"),
    row.sets("--rerank --reranking", Setting(field="embedding", value=True), RANK),
    row.takes("--pooling", "pooling_type", POOLING, "none|mean|cls|last|rank"),
    row.whole("--embd-normalize", "embd_normalize", -1),
    # Chat
    *row.either("--jinja", "--no-jinja", "use_jinja"),
    row.text("--chat-template", "chat_template"),
    row.takes("--chat-template-file", "chat_template", Content, "FILE"),
    Option(flags=("--chat-template-kwargs",), hint="JSON", settings=row.template_arguments),
    *row.either("--skip-chat-parsing", "--no-skip-chat-parsing", "force_pure_content_parser"),
    *row.either("--prefill-assistant", "--no-prefill-assistant", "prefill_assistant"),
    row.takes("--reasoning-format", "reasoning_format", REASONING, "FORMAT"),
    Option(flags=("-rea", "--reasoning"), hint="on|off|auto", settings=row.reasoning),
    row.takes(
        "--reasoning-effort",
        "default_template_kwargs",
        lambda text: {"reasoning_effort": json.dumps(text)},
        "LEVEL",
        added=True,
    ),
    row.whole("--reasoning-budget", "sampling.reasoning_budget_tokens", -1),
    row.text("--reasoning-budget-message", "sampling.reasoning_budget_message"),
    row.sets("--reasoning-preserve", *row.preserve(True)),
    row.sets("--no-reasoning-preserve", *row.preserve(False)),
    # Sampling, where a request does not say otherwise
    row.sampling("--samplers", "samplers", str, "SAMPLERS", "NAME;..."),
    row.takes("-s --seed", "sampling.seed", lambda text: values.whole(-1, 2**32 - 1)(text) & 2**32 - 1),
    row.on("--ignore-eos", "sampling.ignore_eos"),
    row.sampling("--temp --temperature", "temp", row.at_least_none, "TEMP"),
    row.sampling("--top-k", "top_k", values.whole(), "TOP_K"),
    row.sampling("--top-p", "top_p", values.real, "TOP_P"),
    row.sampling("--min-p", "min_p", values.real, "MIN_P"),
    row.sampling("--xtc-probability", "xtc_probability", values.real, "XTC_PROBABILITY"),
    row.sampling("--xtc-threshold", "xtc_threshold", values.real, "XTC_THRESHOLD"),
    row.real("--typical --typical-p", "sampling.typ_p"),
    Option(flags=("--repeat-last-n",), hint="N", settings=row.repetition),
    row.sampling("--repeat-penalty", "penalty_repeat", values.above_nothing, "PENALTY_REPEAT"),
    row.real("--presence-penalty", "sampling.penalty_present"),
    row.real("--frequency-penalty", "sampling.penalty_freq"),
    row.real("--dry-multiplier", "sampling.dry_multiplier"),
    row.real("--dry-base", "sampling.dry_base"),
    row.whole("--dry-allowed-length", "sampling.dry_allowed_length"),
    row.whole("--dry-penalty-last-n", "sampling.dry_penalty_last_n", 0),
    row.real("--adaptive-target", "sampling.adaptive_target"),
    row.real("--adaptive-decay", "sampling.adaptive_decay"),
    row.real("--dynatemp-range", "sampling.dynatemp_range"),
    row.real("--dynatemp-exp", "sampling.dynatemp_exponent"),
    row.sampling("--mirostat", "mirostat", values.whole(0, 2), "MIROSTAT"),
    row.sampling("--mirostat-lr", "mirostat_eta", values.real, "MIROSTAT_ETA"),
    row.sampling("--mirostat-ent", "mirostat_tau", values.real, "MIROSTAT_TAU"),
    row.takes("--grammar", "sampling.grammar", row.grammar, "GRAMMAR"),
    row.takes("--grammar-file", "sampling.grammar", row.grammar_file, "FILE"),
    row.takes("-j --json-schema", "sampling.grammar", row.schema, "SCHEMA"),
    row.takes("-jf --json-schema-file", "sampling.grammar", row.schema_file, "FILE"),
    row.on("-bs --backend-sampling", "sampling.backend_sampling"),
    # Speculative decoding
    row.takes("--spec-type", "speculative.types", values.speculative_types, "TYPE,...", added=True),
    row.text("--spec-draft-model -md --model-draft", "speculative.draft.mparams.path", "FILE"),
    row.takes(
        "--spec-draft-ngl -ngld --gpu-layers-draft --n-gpu-layers-draft",
        "speculative.draft.n_gpu_layers",
        values.layers,
    ),
    row.text("--spec-draft-device -devd --device-draft", "speculative.draft.devices", "DEVICE,..."),
    row.takes("--spec-draft-type-k -ctkd --cache-type-k-draft", "speculative.draft.cache_type_k", CACHE_TYPE, "TYPE"),
    row.takes("--spec-draft-type-v -ctvd --cache-type-v-draft", "speculative.draft.cache_type_v", CACHE_TYPE, "TYPE"),
    row.whole("--spec-draft-n-max", "speculative.draft.n_max", 0),
    row.whole("--spec-draft-n-min", "speculative.draft.n_min", 0),
    row.real("--spec-draft-p-split --draft-p-split", "speculative.draft.p_split"),
    row.real("--spec-draft-p-min --draft-p-min", "speculative.draft.p_min"),
    *row.either(
        "--spec-draft-backend-sampling", "--no-spec-draft-backend-sampling", "speculative.draft.backend_sampling"
    ),
    row.takes(
        "--spec-draft-override-tensor -otd --override-tensor-draft",
        "speculative.draft.tensor_buft_overrides",
        str,
        "PATTERN=BUFFER,...",
        added=True,
    ),
    row.sets(
        "--spec-draft-cpu-moe -cmoed --cpu-moe-draft",
        Setting(field="speculative.draft.tensor_buft_overrides", value=f"{values.EXPERTS}=CPU", added=True),
    ),
    row.takes(
        "--spec-draft-n-cpu-moe --spec-draft-ncmoe -ncmoed --n-cpu-moe-draft",
        "speculative.draft.tensor_buft_overrides",
        values.experts_on_cpu,
        added=True,
    ),
    row.takes("--spec-draft-sampling", "speculative.draft.probabilistic", values.probabilistic, "greedy|probabilistic"),
    *row.processor(row.draft, "speculative.draft.cpuparams"),
    *row.processor(row.draft_batch, "speculative.draft.cpuparams_batch"),
    row.text("-lcs --lookup-cache-static", "speculative.ngram_cache.lookup_cache_static", "FILE"),
    row.text("-lcd --lookup-cache-dynamic", "speculative.ngram_cache.lookup_cache_dynamic", "FILE"),
    row.takes("--spec-ngram-mod-n-min", "speculative.ngram_mod.n_min", values.whole(0, 1024)),
    row.takes("--spec-ngram-mod-n-max", "speculative.ngram_mod.n_max", values.whole(0, 1024)),
    row.takes("--spec-ngram-mod-n-match", "speculative.ngram_mod.n_match", NGRAM),
    *row.ngrams("ngram-simple", "speculative.ngram_simple"),
    *row.ngrams("ngram-map-k", "speculative.ngram_map_k"),
    *row.ngrams("ngram-map-k4v", "speculative.ngram_map_k4v"),
    row.sets(
        "--spec-default",
        Setting(field="speculative.types", value=values.speculative_types("ngram-mod"), added=True),
        Setting(field="speculative.ngram_mod.n_match", value=24),
        Setting(field="speculative.ngram_mod.n_min", value=48),
        Setting(field="speculative.ngram_mod.n_max", value=64),
    ),
    row.takes("--spec-synth-len", "speculative.synth_len", values.real),
    row.takes("--spec-synth-rates", "speculative.synth_rates", values.rates, "P,..."),
)

_WHEEL = "the wheel xllamacpp has no setting for it; --engine llama-server takes it"
_MODEL = "name the model with --model before --"
_OURS = "an instance answers slotproxy alone"
_ENDS = "it prints something and ends"
_ROUTER = "an engine of slotproxy serves one model"
_REASONS = {
    _WHEEL: "-dev --device --override-kv --control-vector --control-vector-scaled --control-vector-layer-range --rpc "
    "--log-file --log-disable --log-jsonl --no-log-jsonl --log-colors --log-prefix --no-log-prefix --log-timestamps "
    "--no-log-timestamps --dry-sequence-breaker -l --logit-bias --sampler-seq --sampling-seq --spm-infill "
    "--top-nsigma --top-n-sigma -mmu --mmproj-url --spec-draft-hf -hfd -hfrd --hf-repo-draft",
    _MODEL: "-mu --model-url -dr --docker-repo -hf -hfr --hf-repo -hff --hf-file -hft --hf-token "
    "--embd-gemma-default --fim-qwen-1.5b-default --fim-qwen-3b-default --fim-qwen-7b-default --fim-qwen-7b-spec "
    "--fim-qwen-14b-spec --fim-qwen-30b-default --gpt-oss-20b-default --gpt-oss-120b-default "
    "--vision-gemma-4b-default --vision-gemma-12b-default",
    _OURS: "--api-key --api-key-file --ssl-key-file --ssl-cert-file --api-prefix --reuse-port --slots --no-slots",
    _ENDS: "-h --help --usage --version -cl --cache-list --completion-bash --list-devices --license",
    _ROUTER: "--models-dir --models-preset --models-max --models-autoload --no-models-autoload",
    "llama.cpp has no use for it any more": "-dt --defrag-thold",
    "llama.cpp has taken it out; see its --spec-draft and --spec-ngram options": "--draft --draft-n --draft-max "
    "--draft-min --draft-n-min --spec-ngram-size-n --spec-ngram-size-m --spec-ngram-min-hits",
}
REFUSED = {flag: reason for reason, flags in _REASONS.items() for flag in flags.split()}
