"""Baseline: FastAPI and uvicorn, two workers, each with the SavedModels in process through the TensorFlow Python package.

Written as FastAPI's documentation teaches it: models for the body and the answer, and a plain function for an endpoint that blocks,
which FastAPI runs in its thread pool. `/lean/…` is the same without any of that: an async endpoint that parses the body itself and
blocks the loop while the model runs. Nobody should do the latter beside a slow model, but it's the fastest FastAPI can be here.
"""

import os
from pathlib import Path
from typing import Any

import tensorflow as tf
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel

tf.config.threading.set_intra_op_parallelism_threads(1)
tf.config.threading.set_inter_op_parallelism_threads(1)

directory = Path(os.environ["BENCH_MODELS"])
names = ("half_plus_two", "mlp", "convnet")
loaded = {name: tf.saved_model.load(str(directory / name / "1")) for name in names}
functions = {name: model.signatures["serving_default"] for name, model in loaded.items()}
app = FastAPI()


class PredictRequest(BaseModel):
    instances: list[Any]


class PredictResponse(BaseModel):
    predictions: list[Any]


def run(name: str, instances: list[Any]) -> list[Any]:
    outputs = functions[name](x=tf.constant(instances, tf.float32))
    return next(iter(outputs.values())).numpy().tolist()


@app.post("/v1/models/{name}:predict")
def predict(name: str, request: PredictRequest) -> PredictResponse:
    return PredictResponse(predictions=run(name, request.instances))


@app.post("/lean/{name}")
async def predict_lean(name: str, request: Request) -> JSONResponse:
    body = await request.json()
    return JSONResponse({"predictions": run(name, body["instances"])})


@app.get("/healthz")
def healthz() -> dict[str, str]:
    return {"status": "ok"}
