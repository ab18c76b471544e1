"""What the joint model leaves for the processor in each step: log-probabilities of the reward models."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass
class Rewards:
    """One engine's hand-over. Whatever could let a step pass without guidance is an error here.

    Attributes:
        is_read: whether a processor is there that will add them to the logits.
        rows: of each reward model, float32 `(rows, vocab)` log-probabilities in nats; None: nothing to be taken.
    """

    is_read: bool = False
    rows: list[Tensor] | None = None

    @classmethod
    def of(cls, vllm_config: Any) -> "Rewards":
        """The hand-over of the engine that a configuration belongs to: model and processor are given the same one."""
        return _by_engine.setdefault(vllm_config.instance_id, cls())

    def require_reader(self) -> None:
        """Refuse to run where nobody would add the rewards to the logits.

        Raises:
            RuntimeError: as said.
        """
        if not self.is_read:
            raise RuntimeError(
                "vLLM has not loaded the logits processor of genarm_hf, so this would be the base alone, unguided. "
                "Serve a directory that `genarm-hf compose` wrote, and do not replace its logits processors."
            )

    def put(self, rows: list[Tensor]) -> None:
        """Leave a step's rewards; those of a step that was not sampled from are dropped."""
        self.rows = rows

    def take(self, logits: Tensor) -> list[Tensor]:
        """The rewards of the rows of `logits`, once.

        Raises:
            RuntimeError: there are none, or they are of other rows.
        """
        rows, self.rows = self.rows, None
        if rows is None or any(part.shape != logits.shape for part in rows):
            shapes = None if rows is None else [tuple(part.shape) for part in rows]
            raise RuntimeError(
                f"Rewards {shapes} are not those of logits {tuple(logits.shape)}: a reward model is out of step."
            )
        return rows


_by_engine: dict[str, Rewards] = {}
