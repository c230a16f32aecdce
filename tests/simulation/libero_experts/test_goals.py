"""The order of a goal's conjuncts."""

from rdvla.simulation.libero.expert.goals import ordered


def test_what_is_filled_is_closed_last():
    close = ("close", "white_cabinet_1_bottom_region")
    put = ("in", "akita_black_bowl_1", "white_cabinet_1_bottom_region")
    assert ordered([close, put]) == [put, close]
    microwave = [("close", "microwave_1"), ("in", "white_yellow_mug_1", "microwave_1_heating_region")]
    assert ordered(microwave) == microwave[::-1]


def test_what_stays_empty_is_closed_first():
    bottom, top = ("close", "white_cabinet_1_bottom_region"), ("open", "white_cabinet_1_top_region")
    assert ordered([top, bottom]) == [bottom, top]
    shut = ("close", "wooden_cabinet_1_top_region")
    on_top = ("on", "akita_black_bowl_1", "wooden_cabinet_1_top_side")
    assert ordered([on_top, shut]) == [shut, on_top]


def test_drawers_are_opened_and_stoves_turned_on_before_anything_is_put():
    put = ("in", "akita_black_bowl_1", "wooden_cabinet_1_top_region")
    pull = ("open", "wooden_cabinet_1_top_region")
    assert ordered([put, pull]) == [pull, put]
    pots = [
        ("on", "moka_pot_1", "flat_stove_1_cook_region"),
        ("on", "moka_pot_2", "flat_stove_1_cook_region"),
    ]
    assert ordered([*pots, ("turnon", "flat_stove_1")]) == [("turnon", "flat_stove_1"), *pots]


def test_a_stack_is_built_from_below():
    upper = ("on", "akita_black_bowl_1", "akita_black_bowl_2")
    lower = ("in", "akita_black_bowl_2", "wooden_tray_1_contain_region")
    assert ordered([upper, lower]) == [lower, upper]
