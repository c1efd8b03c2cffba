import re

from stages.reporting.findings import findings
from tests.reporting.conftest import limited


def sentences(study):
    _, table, groups = study
    return findings(table, groups)


def test_three_sentences_say_what_was_done_found_and_not_to_be_trusted(default_study):
    _, table, (group,) = default_study
    done, best, trust = sentences(default_study)
    assert done == (
        "Ten variants of resnet8 on fashion_mnist were attacked with fgsm and pgd (white box), with pgd transferred "
        "from the other variants, and with noise (no attacker), on 100 test samples each, at epsilon up to 8/255."
    )
    worst = group.worst_case().query("scheme != 'fp32' and not flagged")
    winner = worst.loc[worst["percent"].idxmax()]
    assert f"is <b>{winner['scheme']} · fast_at</b>: <b>{winner['percent']:.1f} %</b>" in best
    flagged = (table["flags"] != "").sum()
    assert trust.startswith(f"<b>{flagged} of {len(table)} cells are flagged</b>")


def test_attacks_are_told_apart_by_what_the_attacker_sees(black_box_study):
    assert (
        "attacked with pgd (white box), with square (black box), and with noise (no attacker), on"
        in sentences(black_box_study)[0]
    )


def test_what_was_attacked_on_fewer_samples_is_named(limited_study):
    done = sentences(limited_study)[0]
    assert "on 100 test samples each (8 of pixel_defend), at epsilon" in done


def test_each_limit_is_told_once(limited_study):
    _, table, groups = limited_study
    table = table.copy()
    table.loc[(table["attack"] == "square") & (table["defense"] == "none"), "n"] = 50
    on_the_filter_alone = (table["attack"] == "fgsm") & (table["defense"] == "none")
    (done, *_) = findings(table[~on_the_filter_alone], groups)
    assert "on 100 test samples each (8 of pixel_defend, 50 with square), at" in done


def test_numbers_over_other_samples_are_told_with_their_samples_and_not_subtracted(limited_study):
    (group,) = limited_study[2]
    best = sentences(limited_study)[1]
    clean, worst = (rows.set_index("variant")["percent"] for rows in (group.clean(), group.worst_case()))
    scheme = re.search(r"<b>(\w+) · pixel_defend</b>", best)[1]
    own, plain = f"{scheme} · pixel_defend", f"{scheme} · none"
    assert f"<b>{worst[own]:.1f} %</b> of 8 samples stay correctly classified" in best
    assert f" % of 8 samples), against {worst[plain]:.1f} % of 100 samples undefended" in best  # also of the runner-up
    assert (
        f"its clean accuracy is {clean[own]:.1f} % on 8 samples, that of the undefended one {clean[plain]:.1f} % "
        "on 1,200."
    ) in best
    assert "points" not in best


def test_samples_of_several_seeds_are_counted_for_each():
    done, best, _ = sentences(limited(8, seeds=(0, 1)))
    assert "on 100 test samples each (8 of pixel_defend)" in done
    assert "</b> of 8 samples stay" in best and "of 100 samples undefended" in best


def test_the_best_variant_is_compared_with_its_undefended_self(default_study):
    best = sentences(default_study)[1]
    assert "undefended; its clean accuracy is" in best
    assert "points less than undefended" in best


def test_a_flagged_variant_is_never_called_best(study):
    masked = study(masked=("int8",), schemes=("int8", "w4a4"), defenses=("none",), also=(), epsilons=(0, 8 / 255))
    assert "<b>w4a4 · none</b>" in sentences(masked)[1]


def test_of_equally_robust_variants_the_smaller_one_is_named(study):
    tied = study(schemes=("int8", "w4a4"), defenses=("none",), also=(), epsilons=(0, 16 / 255, 8 / 255), samples=20)
    (group,) = tied[2]
    assert group.worst_case()["percent"].nunique() == 1
    assert "<b>w4a4 · none</b>" in sentences(tied)[1]


def test_nothing_is_recommended_where_all_is_flagged(study):
    all_flagged = study(masked=("int8",), schemes=("int8",), defenses=("none",), also=(), epsilons=(0, 8 / 255))
    assert sentences(all_flagged)[1] == (
        "The worst case at epsilon 8/255 is flagged for every quantized variant, so none can be recommended."
    )


def test_a_float_study_recommends_nothing(study):
    floats = study(schemes=("fp32",), defenses=("none",), also=(), epsilons=(0, 8 / 255))
    assert "attacked no quantized variant" in sentences(floats)[1]
    assert sentences(floats)[0].startswith("One variant of resnet8 on fashion_mnist was attacked")


def test_clean_cells_are_said_to_be_unflagged(study):
    clean = study(schemes=("int8",), defenses=("none",), also=(), epsilons=(0, 8 / 255))
    assert sentences(clean)[2] == f"None of the {len(clean[1])} cells of the result table is flagged."


def test_every_dataset_and_model_has_its_best(study):
    several = study(
        datasets=("cifar10", "fashion_mnist"), schemes=("int8",), defenses=("none",), also=(), epsilons=(0, 8 / 255)
    )
    found = sentences(several)
    assert len(found) == 4
    assert found[1].startswith("On cifar10 · resnet8, the most robust")


def test_each_norm_has_its_best_and_its_distances(two_norm_study):
    done, in_linf, in_l2, near, _ = sentences(two_norm_study)
    assert (
        "attacked with deepfool, pgd and pgd_l2 (white box), and with pgd and pgd_l2 transferred from the other "
        "variants, on 100 test samples each, at Linf epsilon up to 8/255 and L2 epsilon up to 0.5."
    ) in done
    for sentence, budget in ((in_linf, "Linf epsilon 8/255"), (in_l2, "L2 epsilon 0.5")):
        assert sentence.startswith(f"At {budget}, the most robust quantized variant without a flag is <b>")
        assert "of the samples stay correctly classified under the worst of these attacks" in sentence
    group = two_norm_study[2][1]
    trusted = group.distances[~group.distances["flagged"]].sort_values("median")
    assert near == (
        "Half of the correctly classified samples have an adversarial one within an L2 distance of "
        f"{trusted['median'].iloc[0]:.3g} ({trusted['variant'].iloc[0]}) to "
        f"{trusted['median'].iloc[-1]:.3g} ({trusted['variant'].iloc[-1]}), depending on the variant."
    )


def test_a_flagged_distance_is_not_told(study):
    options = {"attacks": ("deepfool",), "transfer": (), "schemes": ("int8",), "defenses": ("none",), "also": ()}
    told = sentences(study(**options))
    assert len(told) == 4 and told[2].endswith(" (int8 · none).")
    assert len(sentences(study(**options, masked=("int8",)))) == 3


def test_datasets_and_norms_are_told_apart(study):
    both = study(
        datasets=("cifar10", "fashion_mnist"),
        schemes=("int8",),
        defenses=("none",),
        also=(),
        attacks=("pgd", "pgd_l2"),
        transfer=(),
        epsilons=(0, 8 / 255),
        l2_epsilons=(0, 0.5),
    )
    openings = [sentence.split(", the")[0] for sentence in sentences(both)[1:-1]]
    assert openings == [
        f"On {dataset} · resnet8 at {budget}"
        for dataset in ("cifar10", "fashion_mnist")
        for budget in ("Linf epsilon 8/255", "L2 epsilon 0.5")
    ]


def test_a_study_in_l2_alone_names_its_norm(study):
    alone = study(attacks=("pgd_l2",), transfer=(), schemes=("int8",), defenses=("none",), also=())
    done, best, _ = sentences(alone)
    assert done.endswith("at L2 epsilon up to 1.")
    assert best.startswith("The most robust") and "stay correctly classified at L2 epsilon 0.5 under" in best
