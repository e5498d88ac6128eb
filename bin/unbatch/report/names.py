"""How metrics are called and read."""

from dataclasses import dataclass


@dataclass(frozen=True)
class MetricInfo:
    """How a metric is called and read; `better` is ``"higher"`` or ``"lower"``."""

    title: str
    short: str
    about: str
    better: str = "higher"


METRICS = {
    "bras": MetricInfo(
        "BRAS", "BRAS", "silhouette of batches within each label, against all other batches: 1 when batches mix"
    ),
    "silhouette_batch": MetricInfo(
        "Silhouette batch", "Silh. batch", "older form of BRAS; can reward embeddings in which batches stay apart"
    ),
    "ilisi": MetricInfo("iLISI", "iLISI", "how many batches there are among the neighbours of a cell"),
    "kbet": MetricInfo(
        "kBET", "kBET", "share of cells, per label, around which batches are as frequent as in the whole label"
    ),
    "kbet_all": MetricInfo(
        "kBET (all cells)", "kBET all", "share of cells around which batches are as frequent as in the whole dataset"
    ),
    "graph_connectivity": MetricInfo(
        "Graph connectivity", "Graph conn.", "whether the cells of a label are connected in the neighbour graph"
    ),
    "pcr": MetricInfo(
        "PCR comparison", "PCR", "reduction of the variance that batches explain, relative to before correction"
    ),
    "isolated_labels": MetricInfo(
        "Isolated labels", "Isolated labels", "whether labels that few batches have stay apart from others"
    ),
    "nmi": MetricInfo("NMI", "NMI", "agreement of k-means clusters with labels"),
    "ari": MetricInfo("ARI", "ARI", "agreement of k-means clusters with labels, corrected for chance"),
    "silhouette_label": MetricInfo("Silhouette label", "Silh. label", "whether labels form compact, separate groups"),
    "clisi": MetricInfo(
        "cLISI",
        "cLISI",
        "whether the neighbours of a cell have its label; near 1 for most methods, hence of little use",
    ),
    "asw_batch": MetricInfo("ASW batch", "ASW batch", "separation of batches (silhouette width, raw)", "lower"),
    "ch_batch": MetricInfo("CH batch", "CH batch", "separation of batches (Calinski-Harabasz)", "lower"),
    "inv_db_batch": MetricInfo("1/DB batch", "1/DB batch", "separation of batches (1 / Davies-Bouldin)", "lower"),
    "asw_label": MetricInfo("ASW label", "ASW label", "separation of labels (silhouette width, raw)"),
    "ch_label": MetricInfo("CH label", "CH label", "separation of labels (Calinski-Harabasz)"),
    "inv_db_label": MetricInfo("1/DB label", "1/DB label", "separation of labels (1 / Davies-Bouldin)"),
    "batch_probe": MetricInfo(
        "Batch probe",
        "Batch probe",
        "balanced accuracy of a logistic regression for the batch of held-out cells",
        "lower",
    ),
    "batch_probe_within": MetricInfo(
        "Batch probe within labels",
        "Batch probe in labels",
        "the same, fitted to the cells of one label at a time",
        "lower",
    ),
    "batch_asw_excess": MetricInfo(
        "Batch ASW excess",
        "ASW excess",
        "silhouette width of batches less that with batches permuted within labels",
        "lower",
    ),
    "batch_asw_within": MetricInfo(
        "Batch ASW within labels", "ASW in labels", "silhouette width of batches among the cells of a label", "lower"
    ),
    "label_probe_within": MetricInfo(
        "Label within batch",
        "Label in batch",
        "balanced accuracy of a logistic regression for the label of held-out cells, fitted to one batch at a time",
    ),
    "nmi_leiden": MetricInfo(
        "NMI, Leiden", "NMI Leiden", "as NMI, with communities of the neighbour graph as clusters"
    ),
    "ari_leiden": MetricInfo(
        "ARI, Leiden", "ARI Leiden", "as ARI, with communities of the neighbour graph as clusters"
    ),
    "label_knn": MetricInfo(
        "Label by 11 neighbours",
        "Label 11-NN",
        "balanced accuracy of the 11 nearest cells for the label of held-out cells",
    ),
}
"""What the metrics of `score` mean, by name."""


def info(name: str) -> MetricInfo:
    """Return how a metric is called and read; one that is not known goes by its name."""
    plain = name.replace("_", " ")
    return METRICS.get(name, MetricInfo(plain, plain, ""))


def title(name: str) -> str:
    """Return the title of a metric."""
    return info(name).title
