// The null calibration: fits to halves of one batch, which are points of their own, NAME.null for the dataset NAME.

def nullMeta(meta) {
    meta + [id: "${meta.id}.null".toString()]
}

// No dataset and no setting of a sweep has a dot in its name
def isNull(id) {
    id.toString().endsWith('.null')
}

// Fits of all datasets, and of the splits `halve` makes of a batch (SPLITS in bin/unbatch/data/halves.py)
def plannedFits(points, plan, nulls) {
    plan.size() * points.sum { point -> point.names.size() } + 3 * nulls.size()
}
