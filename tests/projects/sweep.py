"""A sweep over the parameters of a forest, in processes. A person approves the best before it is published."""

import warnings
from enum import StrEnum
from itertools import product
from pathlib import Path

import joblib
import numpy as np
from pydantic import BaseModel, PositiveInt
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import confusion_matrix
from sklearn.model_selection import train_test_split

from towpath import chain, context, step


class Rule(StrEnum):
    GINI = "gini"
    ENTROPY = "entropy"


class Settings(BaseModel):
    depth: PositiveInt
    rule: Rule = Rule.GINI


class Trained(BaseModel, arbitrary_types_allowed=True):
    settings: Settings
    accuracy: float
    model: Path


@step
def grid(depths: list[int]) -> list[Settings]:
    return [Settings(depth=depth, rule=rule) for depth, rule in product(depths, Rule)]


@step
def prepare(seed: int) -> dict[str, np.ndarray]:
    x, y = load_iris(return_X_y=True)
    parts = train_test_split(x.astype(np.float32), y, random_state=seed)
    return dict(zip(("x", "x_test", "y", "y_test"), parts, strict=True))


@step(process=True, retries=1)
def train(settings: Settings, data: dict[str, np.ndarray]) -> dict[str, object]:
    forest = RandomForestClassifier(5, max_depth=settings.depth, criterion=settings.rule, random_state=0)
    forest.fit(data["x"], data["y"])
    guessed = forest.predict(data["x_test"])
    warnings.warn(f"trained with depth {settings.depth}", stacklevel=1)
    model = context().work_folder / "forest.joblib"
    joblib.dump(forest, model)
    return {
        "settings": settings,
        "accuracy": np.mean(guessed == data["y_test"], dtype=np.float32),
        "mistakes": np.sum(guessed != data["y_test"]),
        "confusion": confusion_matrix(data["y_test"], guessed),
        "model": model,
    }


@step(requires_approval=True)
def best(trained: list[Trained]) -> Trained:
    return max(trained, key=lambda one: one.accuracy)


@step
def publish(best: Trained, data: dict[str, np.ndarray]) -> str:
    forest = joblib.load(best.model)
    assert forest.max_depth == best.settings.depth
    assert isinstance(best.settings.rule, Rule)
    return f"{forest.score(data['x_test'], data['y_test']):.2f}"


@chain
def sweep(depths: list[int], seed: int = 0):
    data = prepare(seed)
    return publish(best(train.map(grid(depths), data=data)), data)
