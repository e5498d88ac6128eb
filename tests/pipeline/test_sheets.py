"""The workflow and the program preprocess agree on what a samplesheet is, and on its cells."""

import json
import shutil
import subprocess
from pathlib import Path

from harness import ROOT, environment

from unbatch.data.samplesheet import is_samplesheet

FILES = {
    "both.csv": "sample,path,age,weight\nA,a.h5ad,1,2\n",
    "wrong.csv": "sample,file,age,weight\nA,a.h5ad,1,2\n",
    "nothing.csv": "\n\n",
    "quoted.tsv": '"Sample"\t"PATH"\n"A ""1"" \t"\t"b.h5ad"\n',
    "stated.txt": "sep=;\nsample;path\n;\nA;a,b.h5ad\n",
    "counts.csv": "cell,sample,ACTB,GAPDH\nc1,s1,3,4\nc2,path,0,1\n",
    "comment.tsv": "# counts, of all\n\ngene\tc1\tc2\nACTB\t3\t4\n",
    "blanks.txt": "gene c1 c2\nACTB 3 4\n",
    "large_header.csv": "gene," + ",".join(f"cell_{number}" for number in range(20000)) + "\nsample,1\n",
    "wide.csv": "gene," + "1," * 30000 + "\nACTB,1\n",
    "picture.png": "sample,path\nA,a.h5ad\n",
}


def test_the_workflow_recognises_samplesheets_as_the_program_does(pipeline: Path, tmp_path: Path):
    (tmp_path / "sheets").mkdir()
    for name, text in FILES.items():
        (tmp_path / "sheets" / name).write_text(text)
    # more than an array of bytes can hold
    with (tmp_path / "sheets" / "large_hole.csv").open("wb") as file:
        file.write(b"gene,c1,c2\nACTB,1,2\n")
        file.truncate(3 << 30)
    shutil.copy2(ROOT / "tests" / "pipeline" / "sheets.nf", pipeline)
    command = ["nextflow", "run", str(pipeline / "sheets.nf")]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    expected = {name: is_samplesheet(tmp_path / "sheets" / name) for name in found}
    assert {name: each["sheet"] for name, each in found.items()} == expected
    assert {name for name, is_sheet in expected.items() if is_sheet} == {
        "both.csv", "wrong.csv", "nothing.csv", "quoted.tsv", "stated.txt",
    }  # fmt: skip
    assert found["quoted.tsv"]["lines"] == [["Sample", "PATH"], ['A "1" \t', "b.h5ad"]]
    assert found["stated.txt"]["lines"] == [["sample", "path"], ["A", "a,b.h5ad"]]
    assert len(found["wide.csv"]["lines"][0]) == 30002
