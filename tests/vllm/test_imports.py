"""Nothing but the plugin and its benchmark knows of vLLM, and only one module needs it loaded. Runs without vLLM."""

from ..test_architecture import sources


def test_vllm_is_imported_by_the_plugin_alone():
    importing = {
        name: {item.late for item in source.imports if item.target.split(".")[0] == "vllm" and not item.typing}
        for name, source in sources().items()
    }
    importing = {name: late for name, late in importing.items() if late}
    assert all(name.startswith(("integrations.vllm", "benchmarks.serving")) for name in importing)
    assert [name for name, late in importing.items() if False in late] == ["integrations.vllm.processor"]
