// What the tensors of Megatron-LM's torch_dist mean: flattened ones get their shape back, stacked layers are taken
// apart, states of the optimizer join their parameters. Called by the reader of such checkpoints.
// Source: reference checkpoint-formats.md section 6.2.
import type { Box } from "../../checkpoint.ts";
import { MergeyardError } from "../../error.ts";
import { RANK_LIMITS } from "../../limits.ts";
import { elementBytes, elementCount, type Shape, sameShape } from "../../tensor.ts";
import { findTilingProblem, sliceRanges, wholeBox } from "../../universal/box.ts";
import { type ConversionParameter, type GatheredTensor, STATE_NAMES } from "../../universal/conversion.ts";
import type { DcpTensors } from "../dcp/dcp.ts";
import { asKind, countsOf, fieldOf } from "../pickle/value.ts";

/** `decoder.layers.mlp.linear_fc1.weight` names all layers of the stack; `decoder.layers.3.mlp...` one. */
const LAYERS = /^(.*\blayers)\.(?!\d)(.+)$/;
/** `...mlp.experts.experts.linear_fc1.weight` names all experts of a layer; `...experts.experts.3.linear_fc1` one. */
const EXPERTS = /^(.*\bexperts\.experts)\.(?!\d)(.+)$/;
/** Gate and up of a layer that were saved apart (singleton_local_shards). */
const HALF = /^(.*\.linear_fc1\.(?:weight|bias)\d*)_([wv])$/;
const STATE = /^(?:chained_\d+\.)?optimizer\.state\.(fp32_param|exp_avg|exp_avg_sq)\.(.+)$/;
/** What is no weight of the model. */
const OPTIMIZER = /^(?:chained_\d+\.)?optimizer\./;

/**
 * Tensors of more axes that were saved flattened, cell by cell of the grid that ranks cut them into: the axes are those
 * of the grid and one more, and `mcore_data` has the shape. Throws DcpMetadataInvalid, DcpChunksInvalid.
 */
export function undoFlattening({ metadata, tensors }: DcpTensors): readonly ConversionParameter[] {
  const shapes = fieldOf(metadata, "mcore_data") ?? null;
  return tensors.map((tensor) => {
    const entry = asKind(shapes, "dict") === undefined ? undefined : fieldOf(shapes, tensor.name);
    const shape = countsOf(fieldOf(entry ?? null, "nd_reformulated_orig_global_shape"));
    return shape === undefined ? tensor : restoreShape(tensor, shape);
  });
}

function restoreShape(tensor: ConversionParameter, shape: Shape): ConversionParameter {
  const { name, shape: stored } = tensor;
  const grid = stored.slice(0, -1);
  const cell = shape.map((length, axis) => length / (grid[axis] ?? 0));
  const isGrid = grid.length === shape.length && cell.every(Number.isInteger) && elementCount(cell) === stored.at(-1);
  if (!isGrid || elementCount(shape) !== elementCount(stored)) {
    const where = { tensor: name };
    throw new MergeyardError("DcpMetadataInvalid", { where, found: `[${stored}]`, expected: `cells of [${shape}]` });
  }
  const cells = Map.groupBy(tensor.gather.copies.flat(), ({ targetOffset }) => targetOffset.slice(0, -1).join());
  const boxes = [...cells.values()].map((pieces) => {
    const inOrder = [...pieces].sort((a, b) => (a.targetOffset.at(-1) ?? 0) - (b.targetOffset.at(-1) ?? 0));
    const at = inOrder[0]?.targetOffset ?? [];
    return wholeBox(
      inOrder.flatMap(({ ranges }) => ranges),
      cell,
      cell.map((length, axis) => length * (at[axis] ?? 0)),
    );
  });
  const problem = findTilingProblem(boxes, shape);
  if (problem !== undefined) throw new MergeyardError("DcpChunksInvalid", { where: { tensor: name }, ...problem });
  return { ...tensor, shape, gather: { rule: "join", copies: [boxes] } };
}

/** One tensor for each layer of a stack, and for each expert of a layer, numbered from 0. Throws DcpMetadataInvalid. */
export function splitStacks(tensors: readonly ConversionParameter[]): readonly ConversionParameter[] {
  return splitLeading(splitLeading(tensors, LAYERS, "layers"), EXPERTS, "experts");
}

function splitLeading(
  tensors: readonly ConversionParameter[],
  stacked: RegExp,
  what: string,
): readonly ConversionParameter[] {
  return tensors.flatMap((tensor) => {
    const [, stack, rest] = stacked.exec(tensor.name) ?? [];
    const [length, ...shape] = tensor.shape;
    if (stack === undefined || rest === undefined || length === undefined) return [tensor];
    if (length > RANK_LIMITS.chunks) {
      const where = { tensor: tensor.name };
      throw new MergeyardError("DcpMetadataInvalid", {
        where,
        found: `${length} ${what}`,
        expected: `at most ${RANK_LIMITS.chunks}`,
      });
    }
    const boxes: Box[][] = Array.from({ length }, () => []);
    for (const box of tensor.gather.copies.flat()) {
      const [count = 0, ...size] = box.size;
      const bytes = elementBytes(tensor.dtype, elementCount(size));
      const [first = 0, ...offset] = box.targetOffset;
      for (let row = 0; row < count; row += 1) {
        boxes[first + row]?.push(wholeBox(sliceRanges(box.ranges, row * bytes, bytes), size, offset));
      }
    }
    return boxes.map((own, at): ConversionParameter => {
      return { ...tensor, name: `${stack}.${at}.${rest}`, shape, gather: { rule: "join", copies: [own] } };
    });
  });
}

/** Gate and up that were saved apart, as the one tensor they are elsewhere: the gate's rows first. */
export function joinHalves(tensors: readonly ConversionParameter[]): readonly ConversionParameter[] {
  const byName = new Map(tensors.map((tensor) => [tensor.name, tensor]));
  return tensors.flatMap((tensor) => {
    const [, name, half] = HALF.exec(tensor.name) ?? [];
    const [gate, up] = [byName.get(`${name}_w`), byName.get(`${name}_v`)];
    if (name === undefined || gate === undefined || up === undefined) return [tensor];
    if (gate.dtype !== up.dtype || !sameShape(gate.shape, up.shape)) return [tensor];
    if (half === "v") return [];
    const [rows = 0, ...others] = gate.shape;
    const below = up.gather.copies.flat().map((box): Box => {
      return { ...box, targetOffset: box.targetOffset.with(0, (box.targetOffset[0] ?? 0) + rows) };
    });
    const copies = [[...gate.gather.copies.flat(), ...below]];
    return [{ ...gate, name, shape: [2 * rows, ...others], gather: { rule: "join" as const, copies } }];
  });
}

export type FoldedStates = {
  readonly parameters: readonly ConversionParameter[];
  /** Names of what the optimizer saved in another form, by which no parameter is found. */
  readonly ignored: readonly string[];
};

/**
 * Parameters with master weights and moments, where each of them has all three in its own shape. Anything else of an
 * optimizer (buckets of a data-parallel layout) is left out. Without `step`, the iteration, all states are.
 */
export function foldStates(tensors: readonly ConversionParameter[], step: number | undefined): FoldedStates {
  const states = new Map<string, Map<string, ConversionParameter>>();
  const ignored: string[] = [];
  for (const tensor of tensors) {
    const [, state, name] = STATE.exec(tensor.name) ?? [];
    if (state !== undefined && name !== undefined && step !== undefined) {
      states.set(name, (states.get(name) ?? new Map<string, ConversionParameter>()).set(state, tensor));
    } else if (OPTIMIZER.test(tensor.name)) ignored.push(tensor.name);
  }
  const parameters = tensors.flatMap((tensor): ConversionParameter[] => {
    if (OPTIMIZER.test(tensor.name)) return [];
    const held = states.get(tensor.name);
    const master = held?.get("fp32_param");
    const moments = STATE_NAMES.flatMap((state): [string, GatheredTensor][] => {
      const moment = held?.get(state);
      return moment === undefined || !sameShape(moment.shape, tensor.shape) ? [] : [[state, moment]];
    });
    if (step === undefined || master === undefined || moments.length < STATE_NAMES.length) return [tensor];
    if (!sameShape(master.shape, tensor.shape)) return [tensor];
    states.delete(tensor.name);
    const own = moments.map(([state, { dtype, gather }]) => [state, { dtype, gather }] as const);
    const training = { step, states: Object.fromEntries(own) };
    return [{ ...tensor, dtype: master.dtype, gather: master.gather, training }];
  });
  const lost = [...states.values()].flatMap((each) => [...each.values()].map(({ name }) => name));
  return { parameters, ignored: [...ignored, ...lost] };
}
