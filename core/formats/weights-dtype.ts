// A checkpoint's weights in another float dtype, for formats that hold weights alone: from the master weights, rounded
// once. Called by the conversion of a folder.
import { type FloatDtype, isFloatDtype } from "../ops/cast.ts";
import { configInDtype } from "../plan/output-config.ts";
import { convertTensor } from "../universal/box.ts";
import type { TargetParameter } from "../universal/conversion.ts";
import { type OpenedCheckpoint, parametersIn, type WritableCheckpoint } from "./format.ts";
import { fileRole } from "./side-files.ts";

/**
 * The checkpoint without optimizer states, its floats in `dtype`: to nearest, ties to even, F64 by way of F32. Other
 * dtypes stay. config.json says it.
 */
export function weightsIn(opened: OpenedCheckpoint, dtype: FloatDtype): WritableCheckpoint {
  const { checkpoint, training: _, described: _described, ...others } = opened;
  const { config, sideFiles, documents = [] } = checkpoint;
  const conversion = parametersIn(opened).map((parameter) => inDtype(parameter, dtype));
  if (config === undefined) return { ...others, checkpoint, conversion };
  return {
    ...others,
    checkpoint: {
      ...checkpoint,
      sideFiles: sideFiles.filter(({ name }) => fileRole(name) !== "config"),
      documents: new Map([...documents, ["config.json", new TextEncoder().encode(configInDtype(config, dtype))]]),
    },
    conversion,
  };
}

function inDtype(parameter: TargetParameter, as: FloatDtype): TargetParameter {
  const { dtype, shape, gather } = parameter;
  if (!isFloatDtype(dtype)) return { ...parameter, training: undefined };
  return { ...parameter, ...convertTensor({ dtype, shape, gather }, as), training: undefined };
}
