"""scMEDAL (Andrade et al. 2026): an embedding kept free of the batch, and one of what is a batch's own."""

from typing import Annotated, Literal

from pydantic import Field

from unbatch.contract import Needs, Parameters, Slot

PROGRAM = "fit-scmedal"
PACKAGES = ("torch",)
NEEDS = Needs(gpu=True)

KINDS = {
    "scmedal": ("fe", "re"),
    "ae": ("ae",),
    "aec": ("aec",),
    "fe": ("fe",),
    "fec": ("fec",),
    "re": ("re",),
}
"""Models of each mode; the embedding of the first one is that of the method."""

SLOTS = {
    **{
        f"obsm/X_scmedal_{kind}": Slot(about)
        for kind, about in {
            "fe": "fixed effects, what the batches share",
            "re": "random effects, what is a batch's own",
            "ae": "of mode ae: the plain autoencoder's embedding",
            "aec": "of mode aec: the same, trained with a classifier of labels",
            "fec": "of mode fec: fixed effects, trained with a classifier of labels",
        }.items()
    },
    "uns/batches": Slot("names of all batches", "any"),
    "uns/part": Slot("train, validation or test; applied where a model was applied", "any"),
    "uns/history": Slot("MODEL.TERM: every term of the loss by epoch, before its weight", "mapping"),
    "uns/best_epoch": Slot("by model the epoch whose weights were kept, from 1", "mapping"),
    "uns/loss_weights": Slot("MODEL.TERM: weight of the term in the total", "mapping"),
    "uns/counterfactual": Slot(
        "mean change of expression by target batch, label and gene (with `counterfactual`)", "mapping"
    ),
    "uns/groups": Slot("tests between two groups of batches by label and gene (with `groups`)", "mapping"),
    "uns/panel": Slot("cells for genomaps: as they are, reconstructed, and as if from each batch", "mapping"),
}

_ASKED = {"applies": True}
Weights = dict[str, Annotated[float, Field(ge=0)]]


class Params(Parameters):
    """Parameters of `fit`."""

    mode: Literal["scmedal", "ae", "aec", "fe", "fec", "re"] = Field(
        "scmedal", description="the model: fixed and random effects (scmedal), one of them, or the plain autoencoders"
    )
    preset: Literal["recommended", "paper"] = Field(
        "recommended", description="losses, weights and training as published (paper), or what was found to be better"
    )
    latent: int = Field(50, ge=1, description="dimensions of the embeddings")
    epochs: int | None = Field(None, ge=1, description="training epochs; null: the preset's, by the number of cells")
    minibatch: int | None = Field(None, ge=2, description="cells in a step; null: the preset's")
    learning_rate: float | None = Field(None, gt=0, lt=1, description="learning rate of Adam; null: the preset's")
    patience: int | None = Field(
        None, ge=1, description="epochs without a better validation loss after which training stops; null: the preset's"
    )
    weights_fixed: Weights = Field({}, description="weights of terms of the loss of ae, aec, fe and fec, by name")
    weights_random: Weights = Field({}, description="weights of terms of the loss of re, by name")
    fold: int = Field(0, ge=0, description="fold of obs/split that no model sees; the next one stops training")
    held_out_batch: str | None = Field(None, description="name of a batch that no model sees, in place of a fold")
    in_memory: Literal["auto", "yes", "no"] = Field(
        "auto",
        description="whether expression is read as a whole; auto: unless it takes a quarter of the memory",
        json_schema_extra=_ASKED,
    )
    counterfactual: str | None = Field(
        None,
        description="batches that cells are put into, separated by commas; average is all in one",
        json_schema_extra=_ASKED,
    )
    groups: str | None = Field(
        None,
        description="column of obs with two groups of batches: test between cells put into each batch",
        json_schema_extra=_ASKED,
    )
    cells: str | None = Field(
        None,
        description="cells that are put into batches, a condition on obs such as label == 'B'; null: all",
        json_schema_extra=_ASKED,
    )
    way: Literal["batch-free", "published", "decoder"] = Field(
        "batch-free", description="how cells are put into another batch", json_schema_extra=_ASKED
    )
