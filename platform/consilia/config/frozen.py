"""Base of every plan: frozen, and strict about keys."""

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    """A value that is read once from YAML and never changes; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")
