// Giving a model the tokenizer of another, the donor: rows of embedding and head move to where the donor has their
// tokens, and those of tokens that the model does not know become combinations of rows that it has, found in the
// donor's matrix. Everything else of the model stays as it is.
// Source: Training-Free Tokenizer Transplantation via Orthogonal Matching Pursuit, arXiv:2506.06607; its code is
// mergekit's mergekit-tokensurgeon. Where we differ is in docs/transplant.md.
import * as z from "zod";
import type { TensorEntry } from "../../core/checkpoint.ts";
import { MergeyardError } from "../../core/error.ts";
import { count, uri } from "../../core/schema-atoms.ts";
import { matchTokens, type TokenMatches } from "../../core/transplant/match-tokens.ts";
import {
  type Combinations,
  FIRST_TARGET,
  MEAN_ROW,
  planRows,
  type RowPlan,
  sharedRows,
} from "../../core/transplant/row-plan.ts";
import { combineSubwords, SUBWORD_WEIGHTINGS, weighPieces } from "../../core/transplant/subwords.ts";
import {
  findVocabularyTensors,
  type VocabularySide,
  type VocabularyTensors,
} from "../../core/transplant/vocabulary-tensors.ts";
import { passBytes } from "../../engine/approximate-batches.ts";
import { type Approximation, type ExecuteApproximate, WEIGHTINGS } from "../../engine/approximate-request.ts";
import { defineStep, type StepDeps } from "../step.ts";
import { writeFolderManifest } from "./folder-manifest.ts";
import { openTokenizer, type StoredTokenizer, writeTransplantedFiles } from "./transplant-files.ts";
import { transplantedRows } from "./transplant-rows.ts";
import { openReadable, type ReadableModel, readTensorPieces, type WholeTensor, writeModel } from "./whole-tensors.ts";

/** What transplanting has besides. */
export type TransplantDeps = StepDeps & {
  readonly threads: number;
  readonly memoryBytes: number;
  readonly executeApproximate: ExecuteApproximate;
};

/** Of which matrices a match counts. */
export const MATCH_SIDES = ["no", "embed", "lm_head", "yes"] as const;

export const TRANSPLANT_METHODS = ["omp", "common_interpolation", "subword", "mean", "zero"] as const;

const matchSide = z.enum(MATCH_SIDES).default("no");

const tally = z.strictObject({ same: count, byte: count, prefix: count, approximated: count, unknown: count });

export const transplantStep = defineStep({
  name: "transplant",
  input: z.strictObject({
    /** URIs of the folders of the model, of the donor, and of the result. */
    model: uri,
    donor: uri,
    target: uri,
    method: z.enum(TRANSPLANT_METHODS).default("omp"),
    /** Rows that one row is a combination of, at most. */
    k: z.int().positive().default(64),
    /** Of the nearest rows: how they are weighed, and whether those are nearest that point most along. */
    weighting: z.enum(WEIGHTINGS).default("distance_proportional"),
    cosine: z.boolean().default(false),
    /** Of the pieces that the model's tokenizer makes of a token. */
    subwordWeighting: z.enum(SUBWORD_WEIGHTINGS).default("mean"),
    byteMatch: matchSide,
    prefixMatch: matchSide,
  }),
  output: z.strictObject({
    target: z.string(),
    /** Short digest of the folder's manifest. */
    version: z.string(),
    bytes: count,
    /** Rows of the new matrices, and tokens that both models have a row for. */
    rows: count,
    shared: count,
    /** By matrix: what its rows became. */
    matrices: z.array(tally.extend({ tensor: z.string() })),
  }),
  /**
   * Throws TransplantMatrixMissing, TransplantSharedTooFew, PlanTokenizerMissing, PlanTokenizerInvalid,
   * PlanTokenizerNotSupported (of subword), PlanDocumentInvalid, PlanShapeMismatch, PlanDtypeNotMergeable,
   * EngineNonFinite, EngineMemoryTooSmall, YardSourceChanged, the codes of opening a checkpoint, and what the stores
   * throw.
   */
  async run(input, deps: TransplantDeps) {
    const [model, donor] = [await openSource(input.model, deps), await openSource(input.donor, deps)];
    const { signal } = deps;
    const target = deps.openStore(input.target);
    const matches = matchTokens(model.tokenizer, donor.tokenizer, model.tensors.rows);
    const work: Transplant = { input, deps, model, donor, matches, shared: sharedRows(matches, donor.tensors.rows) };
    const sides = await planSides(work);
    const tensors = model.opened.checkpoint.tensors.map((entry): WholeTensor => {
      const { name, dtype, shape } = entry;
      const side = sides.get(model.tensors.sides.get(name) ?? "");
      if (side === undefined) return { name, dtype, shape, bytes: () => readTensorPieces(model, entry, signal) };
      return {
        name,
        dtype,
        shape: [side.plan.rows.length, ...shape.slice(1)],
        bytes: () => newRows(work, entry, side),
      };
    });
    const bytes = await writeModel(target, tensors, signal);
    await writeTransplantedFiles(target, { model, donor, matches }, signal);
    const { byteMatch, prefixMatch } = input;
    const weighting = input.method === "subword" ? input.subwordWeighting : undefined;
    const settings = { ...(methodOf(input) ?? { id: input.method, weighting }), byteMatch, prefixMatch };
    const version = await writeFolderManifest(target, { step: "transplant", settings, inputs: [model, donor] }, signal);
    const matrices = [...model.tensors.sides].flatMap(([tensor, side]) => {
      const plan = sides.get(side)?.plan;
      return plan === undefined ? [] : [{ tensor, ...plan.counts, approximated: plan.targets.length }];
    });
    const shared = work.shared.donor.length;
    return { target: target.uri, version, bytes, rows: matches.isToken.length, shared, matrices };
  },
});

type Source = ReadableModel & { readonly tensors: VocabularyTensors; readonly tokenizer: StoredTokenizer };

type Transplant = {
  readonly input: z.output<typeof transplantStep.input>;
  readonly deps: TransplantDeps;
  readonly model: Source;
  readonly donor: Source;
  readonly matches: TokenMatches;
  readonly shared: { readonly donor: Int32Array; readonly base: Int32Array };
};

async function openSource(place: string, deps: StepDeps): Promise<Source> {
  const model = await openReadable(place, deps);
  const tokenizer = await openTokenizer(model, deps.signal);
  return { ...model, tokenizer, tensors: findVocabularyTensors(model.opened.checkpoint, model.store.uri) };
}

/** What becomes of the matrices of one side. */
type Side = { readonly plan: RowPlan; readonly combinations: Combinations | "mean" | undefined };

async function planSides(work: Transplant): Promise<ReadonlyMap<string, Side>> {
  const { input, model, donor, matches, deps } = work;
  const allows = (match: (typeof MATCH_SIDES)[number], side: VocabularySide): boolean => {
    const own = side === "embedding" ? "embed" : "lm_head";
    return match === "yes" || match === own || (model.tensors.tied && match !== "no");
  };
  const wanted = [...new Set(model.tensors.sides.values())].map((side) => {
    const allowed = { byte: allows(input.byteMatch, side), prefix: allows(input.prefixMatch, side) };
    // What is both is given rows by what goes in.
    const matrix = side === "head" && !model.tensors.tied ? donor.tensors.head : donor.tensors.embedding;
    return { side, matrix, plan: planRows(matches, allowed, donor.tensors.rows) };
  });
  const jobs = new Map(wanted.map((own) => [jobName(own), own]));
  const requests = [...jobs].flatMap(([name, own]) => {
    const request = requestOf(work, own);
    return request === undefined ? [] : [{ name, request }];
  });
  deps.begun?.(requests.reduce((sum, { request }) => sum + passBytes(request), 0));
  const combinations = new Map<string, Combinations>();
  let before = 0;
  for (const { name, request } of requests) {
    const progress = ({ bytesRead }: { readonly bytesRead: number }): void =>
      deps.progress?.({ bytesRead: before + bytesRead, bytesWritten: 0 });
    combinations.set(name, combine(await deps.executeApproximate(request, { signal: deps.signal, progress }), work));
    before += passBytes(request);
  }
  if (input.method === "subword") return combinePieces(work, wanted);
  const fixed = input.method === "mean" ? "mean" : undefined;
  return new Map(
    wanted.map((own) => [own.side, { plan: own.plan, combinations: combinations.get(jobName(own)) ?? fixed }]),
  );
}

/** The same by pieces of texts; what has no piece that has a row is the mean. */
function combinePieces(
  { input, model, donor }: Transplant,
  wanted: readonly (Wanted & { readonly side: VocabularySide })[],
): ReadonlyMap<string, Side> {
  const base = { ...model.tokenizer, encode: model.tokenizer.createEncoder(), rows: model.tensors.rows };
  const made = wanted.map(({ side, plan }): [string, Side] => {
    const weigh = (pieces: number) => weighPieces(pieces, input.subwordWeighting, side);
    const combinations = combineSubwords(plan.targets, donor.tokenizer, base, weigh);
    const rows = plan.rows.map((row) => {
      const target = FIRST_TARGET - row;
      return target >= 0 && combinations.starts[target] === combinations.starts[target + 1] ? MEAN_ROW : row;
    });
    return [side, { plan: { ...plan, rows }, combinations }];
  });
  return new Map(made);
}

type Wanted = { readonly matrix: TensorEntry; readonly plan: RowPlan };

/** How rows are combined; undefined where they are not. */
function methodOf({ method, k, weighting, cosine }: Transplant["input"]) {
  if (method === "omp") return { id: method, k };
  return method === "common_interpolation" ? { id: method, k, weighting, cosine } : undefined;
}

/** Matrices that are both ends of a donor have the same combinations for the same targets. */
function jobName({ matrix, plan }: Wanted): string {
  return JSON.stringify([matrix.name, plan.counts]);
}

/** What is to be found in the donor's matrix, if anything. Throws TransplantSharedTooFew. */
function requestOf({ input, deps, donor, shared }: Transplant, { matrix, plan }: Wanted) {
  const { threads, memoryBytes } = deps;
  const source = { store: donor.store.uri, prefix: donor.prefix };
  const method = methodOf(input);
  if (method === undefined || plan.targets.length === 0) return undefined;
  if (shared.donor.length < method.k) {
    throw new MergeyardError("TransplantSharedTooFew", {
      where: { store: donor.store.uri },
      found: `${shared.donor.length} tokens that both models have`,
      expected: `at least ${method.k}, as many as a row is combined of`,
    });
  }
  return { source, matrix, atoms: shared.donor, targets: plan.targets, method, threads, memoryBytes };
}

/** The same combinations of the base's rows. */
function combine({ counts, chosen, weights }: Approximation, { input, shared }: Transplant): Combinations {
  const starts = new Int32Array(counts.length + 1);
  for (const [target, own] of counts.entries()) starts[target + 1] = (starts[target] ?? 0) + own;
  const total = starts[counts.length] ?? 0;
  const made = { starts, rows: new Int32Array(total), weights: new Float64Array(total) };
  for (const [target, own] of counts.entries()) {
    const from = target * input.k;
    made.rows.set(
      chosen.subarray(from, from + own).map((atom) => shared.base[atom] ?? 0),
      starts[target],
    );
    made.weights.set(weights.subarray(from, from + own), starts[target]);
  }
  return made;
}

function newRows(
  { deps, model }: Transplant,
  matrix: TensorEntry,
  { plan, combinations }: Side,
): AsyncIterable<Uint8Array> {
  const { signal, memoryBytes } = deps;
  const tokens = Int32Array.from(new Set(model.tokenizer.tokenizer.vocabulary.ids.values()))
    .filter((id) => id < model.tensors.rows)
    .sort();
  return transplantedRows({
    model,
    matrix,
    rows: plan.rows,
    combinations,
    tokens,
    memoryBytes: memoryBytes / 4,
    signal,
  });
}
