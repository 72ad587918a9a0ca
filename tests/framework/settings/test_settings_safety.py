from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from batchmill.errors import ConfigError
from batchmill.settings.safety import escape, refuse_code, resolver_names


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("plain: text", []),
        ("${a.b}", []),
        ("${.a[0].b}", []),
        ("${oc.env:HOME}", ["oc.env"]),
        ("${oc.env:HOME,${oc.env:OTHER}}/x", ["oc.env", "oc.env"]),
        ("${ eval : 1 }", ["eval"]),
        ("${eval:{a: 1}}", ["eval"]),
        ("${a.${b}}", []),
        ("${a.${eval:1}}", ["eval"]),
        ("${${a}:1}", ["${a}"]),
        ("${oc.${b}:1}", ["oc.${b}"]),
        ("\\${eval:1}", []),
        ("\\\\${eval:1}", ["eval"]),
        ("time ${a}: ${b}", []),
        ("${unclosed", []),
        ("${x:unclosed", ["x"]),
    ],
)
def test_finds_every_resolver(text: str, names: list[str]) -> None:
    assert list(resolver_names(text)) == names


@given(st.text(alphabet="ab${}:\\.,'\" ", max_size=14))
def test_whatever_omegaconf_would_call_is_found(text: str) -> None:
    called: list[str] = []
    for name in ("a", "b", "ab", "ba"):
        OmegaConf.register_new_resolver(name, lambda *args, name=name: called.append(name), replace=True)
    try:
        OmegaConf.to_container(OmegaConf.create({"x": text}), resolve=True)
    except (OmegaConfBaseException, RecursionError):
        pass  # what cannot be read calls nothing; what was called before that counts
    finally:
        for name in ("a", "b", "ab", "ba"):
            OmegaConf.clear_resolver(name)
    assert set(called) <= {part for name in resolver_names(text) for part in (name, name.strip())}


TREES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(alphabet="ab${}:\\ ", max_size=8).filter(lambda t: t != "???"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", min_size=1, max_size=3), inner),
    max_leaves=6,
)


@given(TREES)
def test_escaped_values_come_back_from_omegaconf_unchanged(tree: Any) -> None:
    config = OmegaConf.create({"x": escape(tree)})
    assert OmegaConf.to_container(config, resolve=True) == {"x": tree}


@given(TREES)
def test_escaped_values_call_nothing(tree: Any) -> None:
    refuse_code(escape(tree))


@pytest.mark.parametrize(
    ("tree", "where"),
    [
        ({"_target_": "os.system"}, "_target_"),
        ({"a": {"b": [1, {"_target_": "x"}]}}, "a.b[1]._target_"),
        ({"a": {" _target_ ": "x"}}, "a. _target_ "),
    ],
)
def test_a_target_is_refused_wherever_it_is(tree: Any, where: str) -> None:
    with pytest.raises(ConfigError) as caught:
        refuse_code(tree)
    assert str(caught.value).startswith(f"{where} is refused")
