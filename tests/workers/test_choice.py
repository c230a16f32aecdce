"""The option `workers`."""

import sys

import pytest

from rdvla.errors import ConfigError, MissingExtraError
from rdvla.workers import LocalProcesses, parse_workers


def test_a_number_means_processes_here():
    with parse_workers("3").transport() as (transport, count):
        assert isinstance(transport, LocalProcesses)
        assert count == 3
    assert parse_workers(3) == parse_workers(" 3 ")


def test_ray_is_a_cluster_with_or_without_a_number():
    assert (parse_workers("ray").count, parse_workers("ray").ray) == (None, "auto")
    choice = parse_workers("ray:16", ray="head:6379")
    assert (choice.count, choice.ray) == (16, "head:6379")


@pytest.mark.parametrize(
    "value", [0, "0", "-1", "²", "ray:0", "ray:00", "ray:٣", "ray:", "ray:x", "rays", "", "1.5"]
)
def test_anything_else_is_refused_with_the_forms_that_there_are(value):
    with pytest.raises(ConfigError, match="workers must be"):
        parse_workers(value)


def test_a_cluster_without_workers_on_it_is_refused():
    with pytest.raises(ConfigError, match=r"ray names a cluster \(head:6379\): give --workers ray"):
        parse_workers(2, ray="head:6379")


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match="ray"), parse_workers("ray").transport():
        pass


def test_nobody_at_an_address_is_said_in_a_sentence():
    pytest.importorskip("ray")
    with (
        pytest.raises(ConfigError, match="no Ray cluster at "),
        parse_workers("ray", ray="127.0.0.1:1").transport(),
    ):
        pass
