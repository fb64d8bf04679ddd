// A trainer's state for ranks that compute with another dtype than those that saved it. Master weights and moments are
// F32 whatever they compute with. Called by the writer of rank files.
// Source: DeepSpeed's engine (_get_zero_ckpt_prefix) and runtime/fp16/loss_scaler.py.
import { isJsonObject, type JsonObject } from "../../json.ts";
import type { FloatDtype } from "../../ops/cast.ts";
import type { TrainingState } from "../../universal/training-state.ts";

/** Without `dtype` the state as it is. A scaler belongs to its dtype: another dtype begins with DeepSpeed's first. */
export function computeIn(
  training: TrainingState | undefined,
  dtype: FloatDtype | undefined,
): TrainingState | undefined {
  if (dtype === undefined || training?.weights === dtype) return training;
  const { groups = [], optimizer: saved = {}, client = {}, topology } = training ?? {};
  const { loss_scaler: _, dynamic_loss_scale: _dynamic, ...optimizer } = saved;
  const config = client.ds_config;
  return {
    weights: dtype,
    ...(topology === undefined ? {} : { topology }),
    groups,
    optimizer,
    client: isJsonObject(config) ? { ...client, ds_config: configIn(config, dtype) } : client,
  };
}

/** The reader of a checkpoint asks its configuration first what ranks compute with. */
function configIn(config: JsonObject, dtype: FloatDtype): JsonObject {
  const section = (key: string, isOn: boolean): JsonObject => {
    const stated = config[key];
    if (!isOn && stated === undefined) return {};
    return { [key]: { ...(isJsonObject(stated) ? stated : {}), enabled: isOn } };
  };
  return { ...config, ...section("bf16", dtype === "BF16"), ...section("fp16", dtype === "F16") };
}
