"""Names and instructions of MetaWorld's tasks. Needs no simulator.

The benchmark ships no instructions: these sentences name what the rendered scene shows.
"""

from __future__ import annotations

from rdvla.simulation.registry import TaskSuite

INSTRUCTIONS: dict[str, str] = {
    "assembly-v3": "pick up the wrench by its handle and place its ring over the peg",
    "basketball-v3": "pick up the basketball and drop it through the hoop",
    "bin-picking-v3": "pick up the object from one bin and place it in the other bin",
    "box-close-v3": "pick up the lid and put it on the box",
    "button-press-topdown-v3": "press the button down from above",
    "button-press-topdown-wall-v3": "reach over the wall and press the button down from above",
    "button-press-v3": "press the button on the front of the box",
    "button-press-wall-v3": "reach around the wall and press the button on the front of the box",
    "coffee-button-v3": "press the button on the coffee machine",
    "coffee-pull-v3": "pull the mug away from the coffee machine to the goal",
    "coffee-push-v3": "push the mug under the coffee machine to the goal",
    "dial-turn-v3": "turn the dial",
    "disassemble-v3": "lift the wrench off the peg",
    "door-close-v3": "close the door",
    "door-lock-v3": "lock the door by turning the lock down",
    "door-open-v3": "open the door",
    "door-unlock-v3": "unlock the door by turning the lock back",
    "hand-insert-v3": "move the gripper into the hole in the table",
    "drawer-close-v3": "push the drawer closed",
    "drawer-open-v3": "pull the drawer open",
    "faucet-open-v3": "turn the faucet open",
    "faucet-close-v3": "turn the faucet closed",
    "hammer-v3": "pick up the hammer and drive the nail into the wall",
    "handle-press-side-v3": "press the handle down from the side",
    "handle-press-v3": "press the handle down",
    "handle-pull-side-v3": "pull the handle up from the side",
    "handle-pull-v3": "pull the handle up",
    "lever-pull-v3": "pull the lever up",
    "pick-place-wall-v3": "pick up the puck, carry it over the wall and place it at the goal",
    "pick-out-of-hole-v3": "lift the puck out of the hole and move it to the goal",
    "pick-place-v3": "pick up the puck and place it at the goal",
    "plate-slide-v3": "slide the plate forward into the cabinet",
    "plate-slide-side-v3": "slide the plate sideways into the cabinet",
    "plate-slide-back-v3": "slide the plate back out of the cabinet",
    "plate-slide-back-side-v3": "slide the plate sideways out of the cabinet",
    "peg-insert-side-v3": "pick up the peg and insert it into the hole in the box",
    "peg-unplug-side-v3": "pull the peg sideways out of the box",
    "soccer-v3": "push the ball into the soccer goal",
    "stick-push-v3": "pick up the stick and push the bottle with it to the goal",
    "stick-pull-v3": "pick up the stick, hook the bottle's handle and pull it to the goal",
    "push-v3": "push the puck to the goal",
    "push-wall-v3": "push the puck around the wall to the goal",
    "push-back-v3": "pull the puck back to the goal",
    "reach-v3": "move the gripper to the goal marker",
    "reach-wall-v3": "reach over the wall and move the gripper to the goal marker",
    "shelf-place-v3": "pick up the block and place it on the shelf",
    "sweep-into-v3": "sweep the block into the hole in the table",
    "sweep-v3": "sweep the block off the table",
    "window-open-v3": "slide the window open",
    "window-close-v3": "slide the window closed",
}

SUITE = TaskSuite(
    instructions=INSTRUCTIONS,
    sets={
        # Yu et al., "Meta-World" (2020), section 4.3, in the benchmark's order.
        "MT10": (
            "reach-v3",
            "push-v3",
            "pick-place-v3",
            "door-open-v3",
            "drawer-open-v3",
            "drawer-close-v3",
            "button-press-topdown-v3",
            "peg-insert-side-v3",
            "window-open-v3",
            "window-close-v3",
        ),
        "MT50": tuple(INSTRUCTIONS),
    },
    default_tasks=("MT10",),
    # The benchmark stops after 500 steps; the experts need fewer than 200, and so does a policy that works.
    step_limits={"short": 200, "published": 500},
    default_step_limit="short",
    cameras=("front", "side", "wrist"),
    noise_levels=(0.0, 0.2, 0.4, 0.6),
    burst_probability=0.03,
)
