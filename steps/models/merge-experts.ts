// Merging the experts of one mixture-of-experts model (M-SMoE): experts that route alike become one, weighted by use,
// their units aligned first. Every expert of a group gets the group's weights, and routers stay: the result is a model
// of the same form. Or there is one expert a group, and a smaller model. Perhaps compressed further (MC-SMoE). Tensors
// are made one by one, when they are written.
import assert from "node:assert/strict";
import * as z from "zod";
import type { TensorEntry } from "../../core/checkpoint.ts";
import { MergeyardError } from "../../core/error.ts";
import { compressMatrix } from "../../core/moe/compress.ts";
import { type Expert, type ExpertLayer, findExpertLayers } from "../../core/moe/experts.ts";
import { countGroups, type Groups, groupExperts, type LayerStatistics, similarityOf } from "../../core/moe/grouping.ts";
import { shrinkModel } from "../../core/moe/shrink.ts";
import { isFloatDtype } from "../../core/ops/cast.ts";
import { assignRows } from "../../core/ops/linalg/assignment.ts";
import {
  addScaledDoubles,
  allocateMatrix,
  dotDoubles,
  type Matrix,
  onHeap,
  rowOf,
  transposed,
} from "../../core/ops/linalg/matrix.ts";
import { count, storedFile, uri } from "../../core/schema-atoms.ts";
import { openCheckpointFile } from "../open-checkpoint.ts";
import { defineStep, type StepDeps } from "../step.ts";
import { digestFile } from "../stream.ts";
import { writeFolderManifest } from "./folder-manifest.ts";
import {
  copySideFiles,
  openReadable,
  type ReadableModel,
  readMatrix,
  readTensorBytes,
  roundValues,
  type WholeTensor,
  writeModel,
} from "./whole-tensors.ts";

const ratio = z.number().min(0).max(1);

/** Added to the sum of weights. Source: MC-SMoE's code. */
const USAGE_FLOOR = 1e-7;

export const mergeExpertsStep = defineStep({
  name: "merge-experts",
  input: z.strictObject({
    /** URIs of the folders of the model and of the result. */
    model: uri,
    target: uri,
    /** Groups a layer, on average; without it no experts are merged. */
    groups: z.number().min(1).optional(),
    /**
     * A folder and a safetensors file in it, with `<prefix>.router_logits` [tokens, experts] and
     * `<prefix>.usage_frequency` [experts] for every layer; without it all uses are equal, and likeness is that of the
     * routers' rows.
     */
    statistics: storedFile.optional(),
    /** Units of experts are matched to those of their group's first expert, or of the layer's. */
    align: z.enum(["none", "group", "layer"]).default("group"),
    /** One expert a group is left, with its core's row of the router; every layer then has `groups`. */
    shrink: z.boolean().default(false),
    compress: z.strictObject({ rankRatio: ratio, residualRatio: ratio }).optional(),
  }),
  output: z.strictObject({
    target: z.string(),
    /** Short digest of the folder's manifest. */
    version: z.string(),
    bytes: count,
    layers: z.array(z.strictObject({ prefix: z.string(), labels: z.array(count), cores: z.array(count) })),
  }),
  /**
   * Throws MoeModelUnknown, MoeStatisticsInvalid, MoeGroupsImpossible, PlanDtypeNotMergeable, EngineNonFinite,
   * YardSourceChanged, the codes of opening a checkpoint, and what the stores throw.
   */
  async run(input, deps) {
    const model = await openReadable(input.model, deps);
    const target = deps.openStore(input.target);
    const layers = findExpertLayers(model.opened.checkpoint.tensors);
    const statistics = await readStatistics(layers, model, input.statistics, deps);
    const groups = groupLayers(layers, statistics, input);
    const { checkpoint } = model.opened;
    const cores = groups.map((own) => own.cores);
    const shrunk = input.shrink ? shrinkModel(layers, cores, checkpoint) : undefined;
    const makers = new Map<string, () => Promise<Uint8Array>>();
    for (const [index, layer] of layers.entries()) {
      const own = { usage: statistics[index]?.usage ?? [], groups: groups[index] ?? { labels: [], cores: [] } };
      const merging = await planLayer(layer, own, input, model, deps);
      for (const [name, make] of merging) makers.set(name, make);
    }
    const bytes = await writeModel(
      target,
      checkpoint.tensors
        .filter(({ name }) => shrunk?.dropped.has(name) !== true)
        .map((entry) => {
          const rows = shrunk?.rows.get(entry.name);
          if (rows !== undefined) return takeRows(model, entry, rows, deps.signal);
          const bytes = makers.get(entry.name) ?? (() => readTensorBytes(model, entry, deps.signal));
          return { name: entry.name, dtype: entry.dtype, shape: entry.shape, bytes };
        }),
      deps.signal,
    );
    await copySideFiles(model, target, deps.signal, shrunk?.config);
    const { groups: average, align, shrink, compress } = input;
    const measured = input.statistics && (await digestStatistics(input.statistics, deps));
    const settings = { groups: average, align, shrink, compress, statistics: measured };
    const making = { step: "merge-experts", settings, inputs: [model] };
    const version = await writeFolderManifest(target, making, deps.signal);
    const described = layers.map(({ prefix }, index) => ({
      prefix,
      labels: [...(groups[index]?.labels ?? [])],
      cores: [...(groups[index]?.cores ?? [])],
    }));
    return { target: target.uri, version, bytes, layers: described };
  },
});

type Input = z.output<typeof mergeExpertsStep.input>;

async function digestStatistics(
  { store, key }: NonNullable<Input["statistics"]>,
  { openStore, signal }: StepDeps,
): Promise<string> {
  const opened = openStore(store);
  const bytes = (await opened.head(key, { signal }))?.bytes ?? 0;
  return digestFile({ store: opened, key, bytes }, signal);
}

/** A router's tensor with some of its rows. */
function takeRows(model: ReadableModel, entry: TensorEntry, rows: readonly number[], signal: AbortSignal): WholeTensor {
  const bytes = async (): Promise<Uint8Array> => {
    const all = await readTensorBytes(model, entry, signal);
    const size = all.length / (entry.shape[0] ?? 1);
    return Buffer.concat(rows.map((row) => all.subarray(row * size, (row + 1) * size)));
  };
  return { name: entry.name, dtype: entry.dtype, shape: [rows.length, ...entry.shape.slice(1)], bytes };
}

function groupLayers(
  layers: readonly ExpertLayer[],
  statistics: readonly LayerStatistics[],
  { groups: average, shrink }: Input,
): readonly Groups[] {
  if (average === undefined) {
    return layers.map(({ experts }) => ({ labels: experts.map((_, i) => i), cores: experts.map((_, i) => i) }));
  }
  const most = layers.reduce((sum, { experts }) => sum + experts.length, 0) / layers.length;
  if (average > most) {
    const [found, expected] = [`${average} groups a layer`, `at most ${most}, as many as experts`];
    throw new MergeyardError("MoeGroupsImpossible", { found, expected });
  }
  if (shrink && !Number.isInteger(average)) {
    const found = `${average} groups a layer`;
    throw new MergeyardError("MoeGroupsImpossible", { found, expected: "a whole number, the same for every layer" });
  }
  const counts = shrink ? layers.map(() => average) : countGroups(statistics, average);
  return statistics.map((own, index) => groupExperts(own, counts[index] ?? 1));
}

async function readStatistics(
  layers: readonly ExpertLayer[],
  model: ReadableModel,
  place: Input["statistics"],
  deps: StepDeps,
): Promise<readonly LayerStatistics[]> {
  const { signal } = deps;
  if (place === undefined) {
    return Promise.all(
      layers.map(async ({ prefix, experts, router }) => {
        if (router?.shape[0] !== experts.length) throw invalid(`${prefix}: no router with a row for each expert`);
        const usage = experts.map(() => 1 / experts.length);
        return { usage, similarity: similarityOf(await readMatrix(model, router, signal)) };
      }),
    );
  }
  const store = deps.openStore(place.store);
  const opened = await openCheckpointFile(store, place.key, signal);
  const source = { store, prefix: "", opened };
  return Promise.all(
    layers.map(async ({ prefix, experts }) => {
      const read = async (name: string): Promise<Matrix> => {
        const entry = opened.checkpoint.tensors.find((tensor) => tensor.name === `${prefix}.${name}`);
        if (entry === undefined) throw invalid(`no tensor ${prefix}.${name}`);
        if (entry.shape.at(-1) !== experts.length) throw invalid(`${entry.name} of shape [${entry.shape.join(", ")}]`);
        return readMatrix(source, entry, signal);
      };
      const [logits, usage] = [await read("router_logits"), await read("usage_frequency")];
      if (usage.values.length !== experts.length || usage.values.some((value) => value < 0)) {
        throw invalid(`${prefix}.usage_frequency`);
      }
      return { usage: [...usage.values], similarity: similarityOf(transposed(logits)) };
    }),
  );
}

function invalid(found: string): MergeyardError {
  const expected = "router_logits [tokens, experts] and usage_frequency [experts] of every layer";
  return new MergeyardError("MoeStatisticsInvalid", { found, expected });
}

/** How each tensor of a layer's experts that changes is made, by name. */
async function planLayer(
  { experts }: ExpertLayer,
  { usage, groups }: { readonly usage: readonly number[]; readonly groups: Groups },
  input: Input,
  model: ReadableModel,
  deps: StepDeps,
): Promise<ReadonlyMap<string, () => Promise<Uint8Array>>> {
  const makers = new Map<string, () => Promise<Uint8Array>>();
  const members = Map.groupBy(experts, (_, index) => groups.labels[index] ?? 0);
  const moves = new Map<Expert, Int32Array>();
  for (const group of members.values()) {
    const reference = input.align === "layer" ? experts[0] : group[0];
    if (input.align === "none" || reference === undefined) continue;
    for (const expert of group) {
      if (expert !== reference) moves.set(expert, await matchUnits(reference, expert, model, deps));
    }
  }
  // In a smaller model expert i holds what group i became.
  for (const expert of input.shrink ? experts.slice(0, groups.cores.length) : experts) {
    const group = members.get(input.shrink ? expert.number : (groups.labels[expert.number] ?? 0)) ?? [];
    const isSame = group.length === 1 && group[0] === expert && !moves.has(expert);
    if (isSame && input.compress === undefined) continue;
    // Experts that no token was sent to are worth the same.
    const isUsed = group.some((own) => (usage[own.number] ?? 0) > 0);
    const parts = group.map((own) => {
      return { expert: own, weight: isUsed ? (usage[own.number] ?? 0) : 1, move: moves.get(own) };
    });
    [...expert.first, expert.last].forEach((entry, part) => {
      makers.set(entry.name, async () => {
        const matrix = await mergePart(parts, part, model, deps);
        if (input.compress !== undefined) compressMatrix(matrix, input.compress);
        return roundValues(matrix.values, isFloatDtype(entry.dtype) ? entry.dtype : "F32");
      });
    });
  }
  return makers;
}

type GroupPart = { readonly expert: Expert; readonly weight: number; readonly move: Int32Array | undefined };

/** The permutation of an expert's units that brings it nearest to the reference. */
async function matchUnits(
  reference: Expert,
  expert: Expert,
  model: ReadableModel,
  { signal }: StepDeps,
): Promise<Int32Array> {
  const inner = reference.last.shape[1] ?? 0;
  const score = allocateMatrix(onHeap, inner, inner);
  const add = async (a: TensorEntry, b: TensorEntry, isLast: boolean): Promise<void> => {
    const read = async (entry: TensorEntry): Promise<Matrix> => {
      const matrix = await readMatrix(model, entry, signal);
      return isLast ? transposed(matrix) : matrix;
    };
    const [left, right] = [await read(a), await read(b)];
    for (let i = 0; i < inner; i++) {
      const [row, target] = [rowOf(left, i), rowOf(score, i)];
      for (let j = 0; j < inner; j++) target[j] = (target[j] ?? 0) + dotDoubles(row, rowOf(right, j));
    }
  };
  for (const [index, own] of reference.first.entries()) await add(own, expert.first[index] ?? own, false);
  await add(reference.last, expert.last, true);
  return assignRows(score);
}

/** sum f_e W_e / (sum f_e + 1e-7), units moved to where the reference has theirs; one expert alone keeps its values. */
async function mergePart(
  parts: readonly GroupPart[],
  part: number,
  model: ReadableModel,
  { signal }: StepDeps,
): Promise<Matrix> {
  let sum: Matrix | undefined;
  for (const { expert, weight, move } of parts) {
    const isLast = part === expert.first.length;
    const entry = isLast ? expert.last : expert.first[part];
    assert.ok(entry !== undefined, "a part of the expert");
    const own = moveUnits(await readMatrix(model, entry, signal), move, isLast);
    if (parts.length === 1) return own;
    sum ??= { ...own, values: onHeap(own.values.length) };
    addScaledDoubles(sum.values, own.values, weight);
  }
  assert.ok(sum !== undefined, "a group has a member");
  const total = parts.reduce((all, { weight }) => all + weight, 0) + USAGE_FLOOR;
  for (let i = 0; i < sum.values.length; i++) sum.values[i] = (sum.values[i] ?? 0) / total;
  return sum;
}

/** Units are rows of the first matrices and columns of the last. */
function moveUnits(matrix: Matrix, move: Int32Array | undefined, isLast: boolean): Matrix {
  if (move === undefined) return matrix;
  const { rows, columns } = matrix;
  const moved = allocateMatrix(onHeap, rows, columns);
  for (let i = 0; i < rows; i++) {
    const from = rowOf(matrix, isLast ? i : (move[i] ?? 0));
    for (let j = 0; j < columns; j++) moved.values[i * columns + j] = from[isLast ? (move[j] ?? 0) : j] ?? 0;
  }
  return moved;
}
