"""Every name that the sources have for an algorithm is found here: as a method, an alias, or a combination that can run."""

import importlib.util
from pathlib import Path

import pytest
from registry_world import ARTEFACTS, all_streams

from expunge import config, registry
from expunge.engine.run import check
from expunge.errors import BadInput
from expunge.source_names import LEFT_OUT, SOURCES, Use, hint

DOCS = Path(__file__).parents[2] / "docs"
ROWS = [(source, name) for source, table in SOURCES.items() for name in table]

SPECIFIED = {
    "000": """raw retrain retrain_ls retrain_sam FT FT_l1 FT_prune FT_prune_bi GA GA_l1 fisher fisher_new wfisher lora prune_lora omp imp
    synflow snip grasp random_prune lt rewind_lt pt backdoor""",
    "SalUn": "RL RL_proximal GA_prune GA_prune_bi boundary_expanding boundary_shrink SalUn SalUn-soft generate_mask",
    "001": """retrain FT fisher fisher_new wfisher NGPlus NGradMask NGradFocus NGSalUn NGPlus_OPT NGradFocusOPT SRL SRGradMask SRGradFocus
    SalUn SRL_OPT SRGradFocusOPT SCRUB SCRUBGradMask SCRUBFocus SCRUBSalUn MSG CT VarGrad""",
    "002": """finetuning cfk euk neggradplus SCRUB constrained_unlearning constrained_learning penalty lagrange augmented_lagrange
    unlearning refining forget-forever confusion train untrain untrain_contrastive batch_averaging SAM SO_SAM""",
    "003": """finetune RLF BoundaryUnlearning SCRUB AdverserialTrainer NN-unlearning surgery MaskedActivation CSA adversarial streaming
    entropy""",
    "004": """RL_imagenet RL_SPKD PL PL_SPKD PL_RKD PL_AKD PL_KD PL_SPKD_retrained PL_SPKD_df GA_KD SPKD SPKD_IL SPKD_AL SPKD_aug
    SPKD_retrained AKD AKD_IL AKD_AL AKD_aug RKD RKD_IL GA_CKA GA_CKA_SPKD SCRUB SCAR CU DUCK PCU PCU_forget GA_noise GA_pp GA_mmd
    GA_softlabel GA_layerwise GA_sequential GA_freeze""",
}
"""The names of each source, written down apart from the table that is tested."""

SEVERAL = {"SalUn", "SCRUB", "VarGrad"}
"""Names that mean different things in different sources; the published meaning is the alias."""
NOT_ALONE = {"penalty", "lagrange", "augmented_lagrange", "unlearning", "forget-forever", "train", "backdoor"}
"""Options of a source's command, which say too little for the name of a method."""


def use_of(source: str, name: str) -> Use:
    return SOURCES[source][name]


def test_the_table_has_every_name() -> None:
    for key, names in SPECIFIED.items():
        table = next(table for source, table in SOURCES.items() if source.startswith(key))
        assert set(names.split()) <= table.keys(), set(names.split()) - table.keys()
    assert len(ROWS) > 120 and all(len(reason) > 30 for reason in LEFT_OUT.values())


def method_of(use: Use, **more):
    return config.build("methods", {"name": use.method or "finetune", **use.fields, **more}, "method")


@pytest.mark.parametrize(("source", "name"), ROWS)
def test_what_it_stands_for_can_run(source: str, name: str) -> None:
    use = use_of(source, name)
    if use.forget:
        assert use.forget in registry.names("scenarios")
    for method in (method_of(use), method_of(use, **use.released)):
        addons = [config.build("addons", addon, "addons") for addon in use.addons]
        kind = sorted(method.scenarios)[0]
        check(method, addons, kind=kind, streams=sorted(all_streams(kind)), artefacts=ARTEFACTS)


@pytest.mark.parametrize(("source", "name"), ROWS)
def test_the_name_alone_means_the_same_or_says_what_to_write(source: str, name: str) -> None:
    use = use_of(source, name)
    if name in SEVERAL or name in NOT_ALONE:
        return
    if use.addons and use.method:
        with pytest.raises(BadInput) as refusal:
            config.build("methods", name, "method")
        assert use.words() in str(refusal.value)
    elif use.method:
        assert config.build("methods", name, "method") == method_of(use)


def test_names_that_mean_several_things_are_those() -> None:
    meanings: dict[str, set[str]] = {}
    for source, name in ROWS:
        meanings.setdefault(name, set()).add(use_of(source, name).words())
    assert {name for name, found in meanings.items() if len(found) > 1} <= SEVERAL
    assert registry.find("methods", "SCRUB").name == "scrub" and registry.find("methods", "SalUn").name == "salun"


def test_no_two_methods_answer_to_one_name() -> None:
    taken: dict[str, str] = {}
    for kind in ("methods", "addons"):
        for name in registry.names(kind):
            component = registry.find(kind, name)
            for word in (name, *component.aliases, *component.presets):
                assert taken.setdefault(f"{kind} {word}", name) == name, f"{word} is both {taken[f'{kind} {word}']} and {name}"


def test_a_preset_yields_to_what_is_given_as_well() -> None:
    made = config.build("methods", {"name": "GA_noise", "size": 0.2}, "method")
    assert (made.name, made.move, made.size) == ("gradient_ascent_perturbed", "noise", 0.2)
    resolved = config.resolve(config.read(None, ["method=GA_layerwise", "forget=random", "method.epochs=2"])).method
    assert (resolved.order, resolved.epochs, resolved.lr) == ("rates", 2, 5e-4)
    assert hint("NGradMask") == "In source 001 that is method=neggrad_plus addons=[gradient_mask]." and hint("nothing") == ""


def released(source: str, name: str, forget: str):
    """Return the method that a request gets with the fields nearest to the released code."""
    use = next(table for key, table in SOURCES.items() if key.startswith(source))[name]
    return config.resolve(config.read(None, [f"method={use.method}", f"forget={forget}", *use.released_words().split()])).method


@pytest.mark.parametrize("forget", ["random", "class"])
def test_released_settings_are_the_sources_whatever_is_forgotten(forget: str) -> None:
    for name in ("NGPlus", "NGradMask", "VarGrad", "NGradFocus", "NGSalUn", "NGPlus_OPT", "NGradFocusOPT"):
        assert released("001", name, forget).alpha == 0.95, name
    for source, name in (("003", "SCRUB"), ("003", "AdverserialTrainer"), ("004", "SCRUB")):
        scrub = released(source, name, forget)
        assert scrub.max_epochs == scrub.epochs, "a pass over the forget set before every pass over the retain set"
    scar = released("004", "SCAR", forget)
    assert (scar.forget_weight, scar.retain_weight, scar.lr) == (5, 5, 5e-4)


def test_the_page_is_made_of_the_table() -> None:
    spec = importlib.util.spec_from_file_location("make_source_names", DOCS / "make_source_names.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (DOCS / "explanation" / "source-names.md").read_text(encoding="utf-8") == module.page(), "python docs/make_source_names.py"
    assert all(f"| `{name}` |" in module.page() for _, name in ROWS)
