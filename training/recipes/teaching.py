"""Teaching: the recipe section of teachers, whose answers the network learns beside the right ones."""

from __future__ import annotations

import pydantic
from pydantic import Field

from polytask.training.recipes.architecture import Section


class TeachersConfig(Section):
    """Teachers: networks of one task each, trained before the run, or a published version.

    At the beginning of the run the network learns their answers only, at its end the right answers only; in between the
    target moves linearly (teacher annealing: Clark et al., "BAM! Born-Again Multi-Task Networks", ACL 2019).
    """

    seeds: int = Field(
        default=0,
        ge=0,
        description="number of teachers of each task, trained with the seeds 0, 1, … and then averaged; 0: no teachers",
    )
    passes: float | None = Field(
        default=None,
        gt=0,
        description="number of times that a teacher sees the task's examples; by default as often as a run of that task alone "
        "would choose, between 20 times for 100 of them and twice for 10,000",
    )
    learning_rate: float = Field(
        default=1e-4, gt=0, description="highest learning rate of a teacher, for all of its weights"
    )
    learning_rates: dict[str, float] = Field(
        default_factory=dict, description="other learning rates by task, such as `{ reviews = 5e-5 }`"
    )
    out_of_fold: int = Field(
        default=0,
        ge=0,
        description="parts into which a task's examples are cut, so that one teacher for each part answers what it was not "
        "trained on; 0: one teacher answers all that it was trained on",
    )
    version: str | None = Field(
        default=None,
        pattern="^[^/]+/[1-9][0-9]*$",
        description="published version of the same store that teaches in place of them, such as `NAME/3`: the tasks that "
        "have the same name, kind and labels there",
    )

    @property
    def teach(self) -> bool:
        """Whether there are any teachers."""
        return bool(self.seeds) or self.version is not None

    @pydantic.model_validator(mode="after")
    def _keys_fit_together(self) -> TeachersConfig:
        others = self.model_fields_set - {"seeds", "version"}
        if self.version is not None and (self.seeds or others):
            raise ValueError(f"version: a published version teaches as it is, without {', '.join(others) or 'seeds'}")
        if others and not self.seeds:
            raise ValueError("seeds: name the number of teachers of a task; 0 is none")
        if self.out_of_fold == 1:
            raise ValueError("out_of_fold: one part would leave nothing to train on; at least 2, or 0")
        return self
