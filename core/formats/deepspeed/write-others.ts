// What rank files hold beside trained parameters: buffers, whole in the module's dict, and frozen weights, which ZeRO 3
// cuts over data-parallel ranks. Called by the writers of ZeRO files and of the universal folder.
// Source: reference checkpoint-formats.md sections 3.2, 3.6; DeepSpeed's zero_to_fp32.py (frozen_param_fragments).
import { isFloatDtype } from "../../ops/cast.ts";
import type { TargetTensor } from "../../universal/box.ts";
import type { TargetParameter } from "../../universal/conversion.ts";
import { cutPiece, sliceForRank, vocabularyRows } from "../../universal/partition.ts";
import type { TrainingState } from "../../universal/training-state.ts";
import type { TargetRequest } from "../target.ts";
import { pyTensor } from "../torch/write.ts";
import type { ModelFile, NamedTensor } from "./write-model.ts";

export type RankOthers = {
  /** In the module's dict: buffers, and frozen weights, which are placeholders there in stage 3. */
  readonly module: readonly NamedTensor[];
  readonly bufferNames: readonly string[];
  /** True where every data-parallel rank has a part of its own of a frozen weight. */
  readonly isCut: boolean;
  /** Frozen weights as the model state of a data-parallel rank has them. */
  frozen(dp: number): ModelFile["frozen"];
};

/** Of one tensor-parallel rank. */
export function planOthers(others: readonly TargetParameter[], request: TargetRequest, rank: number): RankOthers {
  const { topology, training } = request;
  const isWhole = topology.zero !== 3;
  const sliced = others.map((parameter) => {
    const cut = { rank, tp: topology.tp, paddedRows: rowsOf(request, parameter) };
    return {
      name: parameter.name,
      tensor: sliceForRank(parameter, parameter, cut),
      isBuffer: isBuffer(parameter, training),
    };
  });
  const frozen = sliced.filter((each) => !each.isBuffer);
  return {
    module: sliced.map(({ name, tensor, isBuffer: isWholeHere }): NamedTensor => {
      return [name, isWhole || isWholeHere ? tensor : placeholderOf(tensor)];
    }),
    bufferNames: sliced.flatMap((each) => (each.isBuffer ? [each.name] : [])),
    isCut: !isWhole && frozen.length > 0,
    frozen: (dp) =>
      frozen.map(({ name, tensor }) => {
        const fragment = pyTensor(isWhole ? tensor : cutPiece(tensor, dp, topology.dp));
        return { name, shape: tensor.shape, fragment };
      }),
  };
}

/** What stands in the module's dict of stage 3. */
export function placeholderOf({ dtype }: Pick<TargetTensor, "dtype">): TargetTensor {
  return { dtype, shape: [0], gather: { rule: "join", copies: [[]] } };
}

/**
 * True for a buffer among what has no optimizer states. Where no trainer named buffers, the name and dtype tell:
 * modules of torch call parameters so, and the one known buffer `bias`, a mask of attention, is a U8 or a BOOL.
 */
function isBuffer({ name, dtype }: TargetParameter, training: TrainingState | undefined): boolean {
  const buffers = training?.client.buffer_names;
  if (Array.isArray(buffers)) return buffers.includes(name);
  return !(isFloatDtype(dtype) && /(?:^|\.)(?:weight|bias)$/.test(name));
}

/** Rows of the target's vocabulary; undefined where nothing pads the parameter. */
export function rowsOf(
  { topology, training, vocabularyMultiple }: TargetRequest,
  { shape, paddedRows }: TargetParameter,
): number | undefined {
  if (paddedRows === undefined) return undefined;
  const from = training?.topology?.tp ?? 1;
  return vocabularyRows(shape[0] ?? 1, paddedRows, { from, to: topology.tp, multiple: vocabularyMultiple });
}
