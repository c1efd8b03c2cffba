"""The report stage on made-up artifacts, without any network."""

import json
import subprocess
import sys
from io import BytesIO
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from stages.artifacts.adversarial import AdversarialSet, save_adversarial_set
from stages.artifacts.datasets import save_dataset
from stages.artifacts.probes import save_probes
from stages.artifacts.scores import save_scores
from stages.datasets.arrays import Dataset, Split
from stages.ledger.job import Job
from stages.report import run
from tests.reporting.conftest import HEADLINE, WEIGHT_BYTES

EPSILONS = [0.0, HEADLINE, 1.0]
SAMPLES = 40
FIGURES = ["accuracy_vs_epsilon", "distance", "examples", "heatmap", "pareto", "transfer"]
PRODUCTS = [
    *("report.html", "results.csv", "variants.csv", "worst_case.csv", "metrics.json"),
    *(f"figures/{figure}.svg" for figure in FIGURES),
]


class Inputs:
    """Writes made-up artifacts of a study below a folder, and remembers their paths."""

    def __init__(self, folder, scores):
        self.folder, self.paths, self.scores = folder, [], scores
        self.test_labels = scores[scores["threat"] == "clean"].drop_duplicates("sample")["label"].to_numpy()

    def path(self, name):
        path = self.folder / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        self.paths.append(str(path))
        return path

    def write(self):
        self.write_dataset()
        for (scheme, defense), rows in self.scores.groupby(["scheme", "defense"]):
            name = f"fashion_mnist-resnet8-{scheme}-{defense}-s0"
            variant = {"dataset": "fashion_mnist", "model": "resnet8", "scheme": scheme, "defense": defense, "seed": 0}
            folder = "quantized" if scheme != "fp32" else "trained" if defense == "none" else "defended"
            footprint = {"parameters": 1, "macs": 2, "weight_bytes": WEIGHT_BYTES[scheme], "peak_activation_bytes": 3}
            self.path(f"{folder}/{name}.json").write_text(json.dumps({"variant": variant, "footprint": footprint}))
            for attack, attacked in rows.groupby("attack"):
                save_scores(self.path(f"scores/{name}-{attack}.parquet"), attacked)
            if defense == "none":
                self.write_adversarial_set(f"adversarial/{name}-pgd", variant)

    def write_dataset(self):
        images = np.random.default_rng(0).integers(0, 256, (len(self.test_labels), 1, 8, 8)).astype(np.uint8)
        few = Split(images[:4], self.test_labels[:4])
        self.images = images
        path = self.path("prepared/fashion_mnist.safetensors")
        self.path("prepared/fashion_mnist.json")
        classes = tuple(f"class {index}" for index in range(10))
        test = Split(images, self.test_labels)
        save_dataset(path, Dataset("fashion_mnist", (1, 8, 8), classes, (0.0,), 1.0, few, few, test, np.arange(2)))

    def write_adversarial_set(self, stem, variant):
        path = self.path(f"{stem}.safetensors")
        self.path(f"{stem}.json")
        shape = (len(EPSILONS), SAMPLES)
        inputs = np.repeat(self.images[None, :SAMPLES] / 255, len(EPSILONS), 0).astype(np.float32)
        arrays = {
            "inputs": inputs,
            "labels": self.test_labels[:SAMPLES],
            "samples": np.arange(SAMPLES),
            "distance": np.zeros(shape, np.float32),
            "queries": np.zeros(shape, np.int64),
            "success": np.zeros(shape, bool),
        }
        facts = {"variant": variant, "attack": "pgd", "norm": "linf", "minimal_norm": False, "threat": "white_box"}
        costs = {"eot_samples": 1, "epsilons": EPSILONS, "forwards": [1.0] * 3, "backwards": [1.0] * 3}
        save_adversarial_set(path, AdversarialSet(**facts, grid="digital", **costs, **arrays))


def settings(headline=HEADLINE, claims=""):
    return {
        "study": {"title": "A study", "question": "What holds?"},
        "threads": 1,
        "data": {"mirror": "/nowhere", "validation": 10},
        "evaluation": {"headline_epsilon": {"linf": headline}},
        "report": {"quality_targets": {"fashion_mnist": {"resnet8": 0.5}}, "examples": 4, "claims": claims},
    }


def report_job(inputs, products=PRODUCTS):
    return Job(
        rule="report",
        item="all",
        inputs=tuple(inputs.paths),
        params=("study", "data.validation", "evaluation", "report"),
        modules=("stages/report.py",),
        code="report",
        outputs=tuple(f"data/results/{product}" for product in products),
    )


def write_report(inputs, folder, headline=HEADLINE, claims="", **options):
    def path(product):
        (folder / product).parent.mkdir(parents=True, exist_ok=True)
        return folder / product

    task = SimpleNamespace(job=report_job(inputs, **options))
    run(task, SimpleNamespace(values=settings(headline, claims)), SimpleNamespace(path=path))
    return {file.name: file.read_bytes() for file in (folder / "data/results").rglob("*") if file.is_file()}


@pytest.fixture(scope="module")
def inputs(study, tmp_path_factory):
    scores, _, _ = study(schemes=("fp32", "int8"), defenses=("none", "fast_at"), also=(), epsilons=(0, HEADLINE))
    inputs = Inputs(tmp_path_factory.mktemp("study"), scores)
    inputs.write()
    return inputs


@pytest.fixture(scope="module")
def products(inputs, tmp_path_factory):
    return write_report(inputs, tmp_path_factory.mktemp("results"))


def test_every_product_is_written_with_the_same_bytes_each_time(inputs, products, tmp_path):
    assert len(products) == len(PRODUCTS)
    assert all(products.values())
    assert write_report(inputs, tmp_path) == products


def test_tables_agree_with_the_headline_numbers(products):
    headline = json.loads(products["metrics.json"])
    assert headline["headline_epsilon"] == pytest.approx(HEADLINE, abs=1e-6)
    assert len(headline["variants"]) == 4
    variants = pd.read_csv(pd.io.common.BytesIO(products["variants.csv"]))
    assert dict(zip(variants["scheme"], variants["weight_bytes"], strict=True)) == {"fp32": 312_000, "int8": 80_000}
    worst = pd.read_csv(pd.io.common.BytesIO(products["worst_case.csv"])).set_index("epsilon")
    for name, numbers in headline["variants"].items():
        assert worst.loc[0.0313725, name] == pytest.approx(numbers["worst_case_accuracy"], abs=1e-5)


def test_the_page_shows_the_images_and_only_settings_that_the_job_depends_on(products):
    html = products["report.html"].decode()
    assert html.count('<img src="data:image/png') == 4 * (1 + 2 * 2)
    assert "pgd on int8 · none" in html
    assert "validation: 10" in html
    assert "/nowhere" not in html


def test_an_epsilon_without_adversarial_images_is_refused(inputs, tmp_path):
    with pytest.raises(ValueError, match=r"adversarial/.*epsilons: .* expected the headline epsilon 0.25 there"):
        write_report(inputs, tmp_path, headline=0.25)


def test_probes_among_the_inputs_raise_their_flags(inputs, tmp_path):
    facts = {"dataset": "fashion_mnist", "model": "resnet8", "scheme": "int8", "defense": "none", "seed": 0}
    probes = pd.DataFrame(facts | {"attack": "pgd", "norm": "linf", "epsilon": HEADLINE, "sample": range(8)})
    file = tmp_path / "data/probes/fashion_mnist-resnet8-int8-none-s0-pgd.parquet"
    file.parent.mkdir(parents=True)
    save_probes(file, probes.assign(probe="planted", correct=True))
    written = write_report(SimpleNamespace(paths=[*inputs.paths, str(file)]), tmp_path)
    table = pd.read_csv(BytesIO(written["results.csv"]), keep_default_na=False)
    missed = table[table["flags"].str.contains("planted_missed")]
    assert set(missed["threat"]) == {"white_box", "worst_case"} and set(missed["scheme"]) == {"int8"}
    assert b"planted_missed" not in write_report(inputs, tmp_path / "without")["results.csv"]


def test_exports_have_tables_where_the_study_exports(inputs, tmp_path):
    variant = {"dataset": "fashion_mnist", "model": "resnet8", "scheme": "int8", "defense": "none", "seed": 0}
    facts = {"opset": 13, "bytes": 90_000, "n": 20, "agreement": 0.95}
    row = {"sample": 4, "frozen": 1, "exported": 2, "frozen_margin": 0.1, "exported_margin": 0.2}
    exporting = Inputs(tmp_path / "inputs", inputs.scores)
    exporting.path("exported/x.json").write_text(json.dumps(facts | {"variant": variant, "disagreements": [row]}))
    exporting.paths += inputs.paths
    asked = [*PRODUCTS, "exports.csv", "export_disagreements.csv"]
    written = write_report(exporting, tmp_path, products=asked)
    (network,) = pd.read_csv(BytesIO(written["exports.csv"])).to_dict("records")
    assert network == {**variant, **facts, "disagreements": 1, "agrees": False}
    (listed,) = pd.read_csv(BytesIO(written["export_disagreements.csv"])).to_dict("records")
    assert listed == {**variant, **row}
    assert 'id="exports"' in written["report.html"].decode()


def test_claims_are_judged_where_the_study_asks_for_it(inputs, products, tmp_path):
    asked = [*PRODUCTS, "claims.csv"]
    written = write_report(inputs, tmp_path, claims="deep_edge", products=asked)
    table = pd.read_csv(BytesIO(written["claims.csv"]))
    assert list(table.columns) == ["claim", "paper", "ours", "ci_low", "ci_high", "holds", "note"]
    assert set(table["holds"]) == {"undecided"}  # they are about another dataset
    html = written["report.html"].decode()
    assert html.count("<td>undecided</td>") == len(table) and "claims: deep_edge" in html
    assert 'id="claims"' not in products["report.html"].decode()
    others = {name: text for name, text in products.items() if name != "report.html"}
    assert {name: written[name] for name in others} == others
    with pytest.raises(ValueError, match=r"data/results/claims\.csv: not made by it"):
        write_report(inputs, tmp_path, products=asked)


def test_a_product_that_no_report_has_is_refused(inputs, tmp_path):
    with pytest.raises(ValueError, match=r"data/results/report\.pdf: not made by it"):
        write_report(inputs, tmp_path, products=["report.pdf"])


def test_the_report_needs_no_torch():
    code = "import sys, stages.report; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
