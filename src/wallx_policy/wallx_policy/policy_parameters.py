"""Parameters of the policy node."""

from __future__ import annotations

from so101_driver.parameter_spec import NodeParameters, Parameter

from wallx_policy.success import CHECKS

PARAMETERS = NodeParameters(
    "policy",
    (
        Parameter(
            "backend",
            "hold",
            "Policy to run: wall_oss, expert (simulator only), hold, sine, or any installed one.",
        ),
        Parameter("checkpoint", "", "Folder of a trained policy; scripted backends need none."),
        Parameter("device", "cpu", "Where a model runs, as torch names it, e.g. cpu or cuda:0."),
        Parameter(
            "dtype",
            "float32",
            "Number format of a model's weights.",
            choices=("float32", "bfloat16"),
        ),
        Parameter(
            "model_settings",
            "",
            "Overrides of a checkpoint's own settings, e.g. num_steps=9 resize=torchvision; "
            "docs/checkpoints.md has the table.",
        ),
        Parameter(
            "calibration",
            "",
            "LeRobot calibration file of the arm; needed for checkpoints in ±100 units only.",
        ),
        Parameter(
            "instruction",
            "",
            "What the arm shall do; the topic instruction and run_instruction replace it.",
            read_only=False,
        ),
        Parameter(
            "inference_period_s",
            0.08,
            "Time between two inferences.",
            unit="s",
            minimum=0.01,
            maximum=10.0,
        ),
        Parameter(
            "min_latency_s",
            0.0,
            "Publish no chunk earlier than this after its observation; a backend may ask for more.",
            unit="s",
            minimum=0.0,
            maximum=2.0,
        ),
        Parameter(
            "chunk_conditioning",
            "auto",
            "How a chunk continues the one under way; auto: when it comes later than one of its "
            "periods. See docs/policy.md.",
            choices=("auto", "off", "frozen", "guided"),
        ),
        Parameter(
            "state_lookahead_s",
            0.115,
            "As the safety node's: how early it executes chunks of reached positions.",
            unit="s",
            minimum=0.0,
            maximum=0.5,
        ),
        Parameter(
            "subtask_period_s",
            0.0,
            "Time from one step that the model writes to the next, for checkpoints trained with "
            "text; 0: only when policy/renew_subtask is called.",
            unit="s",
            minimum=0.0,
            maximum=600.0,
        ),
        Parameter(
            "image_transport",
            "compressed",
            "Which image topics to take; recordings hold the compressed ones.",
            choices=("compressed", "raw"),
        ),
        Parameter(
            "camera_topics",
            "",
            "Cameras with other topics than the contract's: view=base_topic, separated by commas.",
        ),
        Parameter(
            "max_skew_s",
            0.1,
            "Most time between the parts of one observation.",
            unit="s",
            minimum=0.001,
            maximum=1.0,
        ),
        Parameter(
            "max_observation_age_s",
            0.5,
            "Inputs older than this have stopped coming: nothing is inferred from them.",
            unit="s",
            minimum=0.01,
            maximum=10.0,
        ),
        Parameter(
            "torch_threads",
            1,
            "Threads that torch may use; the 100 Hz loops need the other cores.",
            minimum=1,
            maximum=256,
        ),
        Parameter(
            "success_check",
            "",
            "What run_instruction calls success; without a check it always ends by TIMEOUT.",
            choices=("", *sorted(CHECKS)),
        ),
        Parameter("frame_id", "base_link", "Frame of the arm's base, the frame_id of chunks."),
        Parameter(
            "expert_keep_gripper_open",
            False,
            "Backend expert never closes the gripper; for tests, which must then see a failure.",
        ),
    ),
)
