"""The versions of vLLM that are tested: the plugin uses parts of vLLM that are not its public interface."""

TESTED = ">=0.32,<0.33"


def check_version() -> None:
    """Refuse a version of vLLM that nobody has tested this with.

    Raises:
        ImportError: as said.
    """
    from packaging.specifiers import SpecifierSet
    from vllm import __version__

    if not SpecifierSet(TESTED).contains(__version__, prereleases=True):
        raise ImportError(
            f"genarm_hf serves guided models with vllm{TESTED}, and {__version__} is installed. It depends on inner "
            f'parts of vLLM, which move from version to version: pip install "vllm{TESTED}".'
        )
