"""Untrained agents: this project's, and Stable-Baselines3's as rl-baselines3-zoo configures them.

Everything heavy is imported when an agent is made, after the process has its settings.
"""

from typing import Any

# While DQN's speed is measured it learns, and its replay buffer fills soon.
DQN_SETTINGS = {"learning_starts": 400, "buffer_size": 20_000, "exploration_fraction": 0.1}


def make_ours(algo: str, game: str, overrides: dict[str, Any]) -> Any:
    """This project's agent, with the zoo's hyper-parameters, on its environments."""
    from agents.algorithms.build import make_agent
    from agents.algorithms.device import find_device
    from agents.models.own_extractor import load_extractor
    from configs.protocols import load_protocol
    from configs.run_config import make_config
    from envs.atari_vec_env import AtariVecEnv
    from envs.games import find_game

    settings, preset = (DQN_SETTINGS, None) if algo == "dqn" else ({}, "zoo")
    config = make_config(game, algo, settings | overrides, preset)
    config = config.replace(network=load_extractor(config.network))
    env = AtariVecEnv(
        find_game(game), load_protocol(config.run.protocol), config.hyperparameters.n_envs, 0
    )
    return make_agent(config, env, find_device(config.execution.device))


def make_sb3(algo: str, game: str, seed: int = 0) -> Any:
    """SB3's A2C, DQN or PPO with rl-baselines3-zoo's Atari settings, on SB3's environments."""
    import ale_py
    import gymnasium
    from stable_baselines3 import A2C, DQN, PPO
    from stable_baselines3.common.env_util import make_atari_env
    from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
    from stable_baselines3.common.vec_env import VecFrameStack

    gymnasium.register_envs(ale_py)
    n_envs = {"a2c": 16, "dqn": 1, "ppo": 8}[algo]
    env = VecFrameStack(make_atari_env(f"{game}NoFrameskip-v4", n_envs=n_envs, seed=seed), 4)
    if algo == "a2c":
        policy_kwargs = {"optimizer_class": RMSpropTFLike, "optimizer_kwargs": {"eps": 1e-5}}
        return A2C(
            "CnnPolicy", env, ent_coef=0.01, vf_coef=0.25, seed=seed, policy_kwargs=policy_kwargs
        )
    if algo == "ppo":
        return PPO(
            "CnnPolicy",
            env,
            n_steps=128,
            n_epochs=4,
            batch_size=256,
            learning_rate=lambda progress_remaining: 2.5e-4 * progress_remaining,
            clip_range=lambda progress_remaining: 0.1 * progress_remaining,
            vf_coef=0.5,
            ent_coef=0.01,
            seed=seed,
        )
    return DQN(
        "CnnPolicy",
        env,
        learning_rate=1e-4,
        batch_size=32,
        target_update_interval=1000,
        train_freq=4,
        gradient_steps=1,
        exploration_final_eps=0.01,
        seed=seed,
        **DQN_SETTINGS,  # type: ignore[arg-type]
    )
