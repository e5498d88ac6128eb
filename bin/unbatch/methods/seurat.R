# `fit-seurat`: Seurat v4's anchors by canonical correlation (Stuart et al. 2019), by Seurat itself.
# It reads a dataset and writes a fit as the Python programs do (bin/unbatch/data/schema_h5ad.yml): no file in between.
# Exit codes as theirs: 2 wrong usage or input, 74 a disk that is full, 99 not applicable, 1 anything else.

SCHEMA <- 1L
DEFAULTS <- list(n_components = 30L, anchors = 5L, weighting = 100L)

fail <- function(message, code = 2L) {
  cat("Error: ", message, "\n", sep = "", file = stderr())
  quit(save = "no", status = code)
}

# --version is asked of every program
own <- sub("^--file=", "", grep("^--file=", commandArgs(FALSE), value = TRUE)[1])
unbatch_version <- sub(".*\"(.*)\".*", "\\1", grep("^__version__", readLines(
  file.path(dirname(dirname(normalizePath(own))), "__init__.py")), value = TRUE))
packages <- c("Seurat", "SeuratObject", "rhdf5")

versions <- function() {
  there <- Filter(function(name) requireNamespace(name, quietly = TRUE), packages)
  found <- vapply(there, function(name) as.character(packageVersion(name)), "")
  c(list(unbatch = unbatch_version, R = as.character(getRversion())), as.list(found))
}

# ---- options
given <- commandArgs(TRUE)
if ("--version" %in% given) {
  found <- versions()
  cat("{", paste(sprintf("\"%s\": \"%s\"", names(found), unlist(found)), collapse = ", "), "}\n", sep = "")
  quit(save = "no")
}
usage <- "fit-seurat DATASET -o FIT [--method seurat] [--params FILE] [--seed N] [--threads N] [--device NAME] [--max-epochs N]"
if (any(c("-h", "--help") %in% given)) {
  cat("Usage: ", usage, "\n\n  Fit Seurat's CCA anchors to DATASET and write the embedding.\n", sep = "")
  quit(save = "no")
}
options_of <- list(`-o` = NULL, `--output` = NULL, `--params` = NULL, `--seed` = "0", `--threads` = "1",
                   `--device` = "auto", `--max-epochs` = NULL, `--method` = "seurat")
KNOWN <- c("-o", "--output", "--params", "--seed", "--threads", "--device", "--max-epochs", "--method")
dataset <- NULL
while (length(given)) {
  if (startsWith(given[1], "-")) {
    if (!given[1] %in% KNOWN)
      fail(paste0("no such option ", given[1], "; usage: ", usage))
    if (length(given) < 2) fail(paste0(given[1], " needs a value"))
    options_of[[given[1]]] <- given[2]
    given <- given[-(1:2)]
  } else {
    if (!is.null(dataset)) fail(paste0("one dataset was expected; usage: ", usage))
    dataset <- given[1]
    given <- given[-1]
  }
}
output <- if (is.null(options_of[["-o"]])) options_of[["--output"]] else options_of[["-o"]]
if (is.null(dataset) || is.null(output)) fail(paste0("dataset and output are needed; usage: ", usage))
if (options_of[["--method"]] != "seurat") fail(paste0("--method: found ", options_of[["--method"]], ", expected seurat"))
if (!file.exists(dataset)) fail(paste0(dataset, ": no such file"))
if (!grepl("^[0-9]+$", options_of[["--seed"]]) || as.numeric(options_of[["--seed"]]) > .Machine$integer.max)
  fail(paste0("--seed: found ", options_of[["--seed"]], ", a whole number below 2^31 was expected"))
seed <- as.integer(options_of[["--seed"]])

for (name in c(packages, "jsonlite", "Matrix")) {
  if (!requireNamespace(name, quietly = TRUE))
    fail(paste0("seurat: the R package ", name, " is not installed; the image unbatch-seurat (make image-seurat) has it"), 99L)
}
suppressMessages({
  library(Seurat)
  library(rhdf5)
})
params <- DEFAULTS
if (!is.null(options_of[["--params"]])) {
  # the pipeline writes JSON, which is YAML
  text <- paste(readLines(options_of[["--params"]], warn = FALSE), collapse = "\n")
  own_params <- tryCatch(jsonlite::fromJSON(text), error = function(e)
    fail(paste0(options_of[["--params"]], ": not JSON, which this program takes in place of YAML (", gsub("\\s+", " ", conditionMessage(e)), ")")))
  for (name in names(own_params)) {
    if (!name %in% names(DEFAULTS))
      fail(paste0("seurat has no parameter '", name, "'; it has ", paste(names(DEFAULTS), collapse = ", ")))
    if (!is.numeric(own_params[[name]]) || own_params[[name]] < 1 || own_params[[name]] != round(own_params[[name]]))
      fail(paste0("seurat: parameter ", name, " is ", own_params[[name]], ", a whole number from 1 on was expected"))
    params[[name]] <- as.integer(own_params[[name]])
  }
}

# ---- read
if (!H5Fis_hdf5(dataset)) fail(paste0(dataset, ": not an h5ad file (no HDF5 signature)"))
listing <- h5ls(dataset, all = FALSE)
slots <- sub("^//", "/", paste(listing$group, listing$name, sep = "/"))
for (slot in c("/obs/batch/codes", "/layers/counts/indptr", "/var/highly_variable")) {
  if (!slot %in% slots) fail(paste0(dataset, ": ", substring(slot, 2), " is missing; a dataset file of unbatch was expected"))
}
index <- function(group) {
  attributes <- h5readAttributes(dataset, group)
  found <- h5read(dataset, paste0(group, "/", attributes[["_index"]]))
  # anndata writes names as an array, or as a group of values and a mask of what is missing
  as.character(if (is.list(found)) found$values else found)
}
cells <- index("obs")
genes <- index("var")
codes <- as.integer(h5read(dataset, "obs/batch/codes"))
variable <- toupper(as.character(h5read(dataset, "var/highly_variable"))) %in% c("TRUE", "1")
if (!any(variable)) fail(paste0(dataset, ": var/highly_variable marks no gene; run preprocess with a larger --n-top-genes"))
# rows of a CSR matrix are the columns of R's CSC matrix: cells x genes becomes genes x cells as it is
counts <- new("dgCMatrix",
  p = as.integer(h5read(dataset, "layers/counts/indptr")), i = as.integer(h5read(dataset, "layers/counts/indices")),
  x = as.numeric(h5read(dataset, "layers/counts/data")), Dim = c(length(genes), length(cells)))
counts <- as(Matrix::drop0(counts), "CsparseMatrix")
# names of genes may hold what Seurat replaces, as underscores: numbers instead, as no result is by gene
dimnames(counts) <- list(paste0("gene", seq_len(nrow(counts))), paste0("cell", seq_along(cells)))
sizes <- table(codes)
if (length(sizes) < 2) fail(paste0(dataset, ": obs/batch holds one batch, there is nothing to integrate"), 99L)
chosen <- rownames(counts)[variable]
# as many dimensions as genes and cells allow, and neighbours as there are cells
dims <- seq_len(min(params$n_components, length(chosen) - 1L, as.integer(min(sizes)) - 1L))
if (length(dims) < 2)
  fail(sprintf("seurat: %d variable genes and %d cells in the smallest batch, more than 2 of both are needed",
               length(chosen), min(sizes)), 99L)

# ---- fit, as in the vignette "Introduction to scRNA-seq integration" of Seurat 4
start <- proc.time()[["elapsed"]]
set.seed(seed)
embedding <- tryCatch({
  parts <- lapply(names(sizes), function(code) {
    part <- CreateSeuratObject(counts[, codes == as.integer(code)])
    part <- NormalizeData(part, verbose = FALSE)
    VariableFeatures(part) <- chosen
    part
  })
  found <- suppressWarnings(FindIntegrationAnchors(parts,
    anchor.features = chosen, dims = dims, k.anchor = params$anchors, k.score = min(30L, as.integer(min(sizes)) - 1L),
    verbose = FALSE))
  merged <- suppressWarnings(IntegrateData(found,
    dims = dims, k.weight = min(params$weighting, as.integer(min(sizes)) - 1L), verbose = FALSE))
  DefaultAssay(merged) <- "integrated"
  merged <- ScaleData(merged, verbose = FALSE)
  merged <- suppressWarnings(RunPCA(merged, features = rownames(merged),
    npcs = min(params$n_components, length(chosen) - 1L), seed.use = seed, verbose = FALSE))
  Embeddings(merged, "pca")
}, error = function(problem) fail(paste0("seurat failed: ", gsub("\\s+", " ", conditionMessage(problem))), 1L))
wall <- proc.time()[["elapsed"]] - start

# ---- check: Seurat returns the cells batch by batch
if (!setequal(rownames(embedding), colnames(counts)) || nrow(embedding) != length(cells))
  fail("seurat failed: it returned other cells than it was given", 1L)
embedding <- embedding[colnames(counts), , drop = FALSE]
if (!all(is.finite(embedding))) fail("seurat failed: its embedding holds NaN or infinite values", 1L)
if (any(apply(embedding, 2, function(column) diff(range(column))) == 0))
  fail("seurat failed: a dimension of its embedding is the same for every cell", 1L)

# ---- write, under another name until it is whole
peak_mb <- function() {
  status <- tryCatch(readLines("/proc/self/status"), error = function(e) character())
  line <- grep("^VmHWM", status, value = TRUE)
  if (length(line)) as.numeric(gsub("[^0-9]", "", line)) * 1024 / 1e6 else 0
}
partial <- tempfile("fit-seurat-", dirname(output), ".partial")
# HDF5 crashes where a disk is full: as many other bytes tell before
room <- 4 * length(embedding) + length(cells) * max(nchar(cells, "bytes")) + 2^17
there <- suppressWarnings(try({ writeBin(raw(room), partial); file.size(partial) >= room }, silent = TRUE))
unlink(partial)
if (!isTRUE(there)) {
  fail(sprintf("%s: cannot write %s, which needs %.1f MB: the disk does not take as much",
               normalizePath(dirname(output)), basename(output), room / 1e6), 74L)
}
invisible(h5createFile(partial))
file <- H5Fopen(partial)
mark <- function(object, type, version) {
  h5writeAttribute(type, object, "encoding-type", asScalar = TRUE)
  h5writeAttribute(version, object, "encoding-version", asScalar = TRUE)
}
new_group <- function(name, type = "dict", version = "0.1.0") {
  h5createGroup(file, name)
  group <- H5Gopen(file, name)
  mark(group, type, version)
  group
}
scalar <- function(name, value) {
  space <- H5Screate("H5S_SCALAR")
  text <- is.character(value)
  type <- if (text) H5Tcopy("H5T_C_S1") else if (is.integer(value)) "H5T_STD_I64LE" else "H5T_IEEE_F64LE"
  if (text) {
    H5Tset_size(type, max(1L, nchar(value, "bytes")))
    H5Tset_cset(type, "UTF-8")
  }
  data <- H5Dcreate(file, name, type, space)
  H5Dwrite(data, value)
  mark(data, if (text) "string" else "numeric-scalar", "0.2.0")
  H5Dclose(data)
  H5Sclose(space)
}
mark(file, "anndata", "0.1.0")
for (axis in c("obs", "var")) {
  group <- new_group(axis, "dataframe", "0.2.0")
  names_of <- if (axis == "obs") cells else character()
  h5writeAttribute("_index", group, "_index", asScalar = TRUE)
  # no other columns: an empty list of names, which rhdf5 writes as numbers and anndata reads as well
  space <- H5Screate_simple(0L)
  attribute <- H5Acreate(group, "column-order", "H5T_IEEE_F64LE", space)
  H5Aclose(attribute)
  H5Sclose(space)
  H5Gclose(group)
  name <- paste0(axis, "/_index")
  width <- max(1L, nchar(names_of, "bytes"))
  h5createDataset(file, name, dims = length(names_of), storage.mode = "character", size = width, encoding = "UTF-8",
                  chunk = if (length(names_of)) length(names_of) else NULL, level = 0)
  if (length(names_of)) h5write(names_of, file, name)
  data <- H5Dopen(file, name)
  mark(data, "string-array", "0.2.0")
  H5Dclose(data)
}
for (name in c("obsm", "uns", "uns/unbatch", "uns/unbatch/params", "uns/unbatch/versions")) H5Gclose(new_group(name))
# R's columns are HDF5's rows: the transpose is cells x dimensions
h5createDataset(file, "obsm/X_seurat", dims = rev(dim(embedding)), storage.mode = "double", H5type = "H5T_IEEE_F32LE", level = 0)
h5write(unname(t(embedding)), file, "obsm/X_seurat")
data <- H5Dopen(file, "obsm/X_seurat")
mark(data, "array", "0.2.0")
H5Dclose(data)
about <- list(schema = SCHEMA, method = "seurat", output = "embedding", seed = seed, device = "cpu", wall_s = as.numeric(wall),
              peak_mb = peak_mb())
for (name in names(about)) scalar(paste0("uns/unbatch/", name), about[[name]])
for (name in names(params)) scalar(paste0("uns/unbatch/params/", name), params[[name]])
found <- versions()
for (name in names(found)) scalar(paste0("uns/unbatch/versions/", name), found[[name]])
H5Fclose(file)
if (!file.rename(partial, output)) fail(paste0(output, ": cannot be written"), 2L)
cat(sprintf("%s seurat: %d cells x %d dimensions in %.1f s -> %s\n", format(Sys.time(), "%H:%M:%S"),
            nrow(embedding), ncol(embedding), wall, output), file = stderr())
