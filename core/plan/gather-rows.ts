// Embeddings under a vocabulary that is not their model's own: for every model, which stored row each row of the output
// comes from, and what stands in for tokens that the model lacks.
// Source: mergekit's permuted embeddings, reference section 6; docs/adr/0007-tokenizer-merge.md.
import type { TensorEntry } from "../checkpoint.ts";
import { MergeyardError } from "../error.ts";
import { isFloatDtype } from "../ops/cast.ts";
import { fieldPlace, type RecipeOrigin } from "../recipe/origin.ts";
import type { TokenRule } from "../recipe/tokenizer.ts";
import type { Shape } from "../tensor.ts";
import { parseLayerName, tensorRole } from "./architecture.ts";
import { ROWS_MEAN, ROWS_PADDING, ROWS_ZERO, type RowGather, type StoredTensor } from "./schema.ts";
import type { VocabularyPlan } from "./vocabulary.ts";

/** A tensor of a model that rows can be taken from. */
export type RowDonor = { readonly model: string; readonly isBase: boolean; readonly stored: StoredTensor };

export type GatherTask = {
  readonly vocabulary: VocabularyPlan;
  /** The output tensor's inputs, in order. */
  readonly inputs: readonly RowDonor[];
  /** The tensor of a model that is no input of this tensor; undefined when it has none. */
  readonly donor: (model: string) => StoredTensor | undefined;
  readonly tensor: string;
  readonly origin: RecipeOrigin;
};

/** What an input becomes: its new shape, and its rows where they are not the stored ones in their order. */
export type GatheredInput = { readonly shape: Shape; readonly rows: RowGather | undefined };

/** True for a tensor with one row a token: embeddings, heads and the biases of heads. */
export function hasTokenRows(entry: TensorEntry, vocabulary: number | undefined): boolean {
  if (tensorRole(entry, vocabulary) !== undefined) return true;
  if (entry.shape.length !== 1 || entry.shape[0] !== vocabulary || parseLayerName(entry.name) !== undefined)
    return false;
  const weight = { ...entry, name: entry.name.replace(/\.bias$/, ".weight"), shape: [...entry.shape, 1] };
  return entry.name.endsWith(".bias") && tensorRole(weight, vocabulary) === "head";
}

/**
 * The inputs of one output tensor under the output's vocabulary.
 * Throws PlanTokenMissing, PlanShapeMismatch, PlanDtypeNotMergeable.
 */
export function gatherInputs(task: GatherTask): readonly GatheredInput[] {
  const { inputs, vocabulary } = task;
  checkWidths(task);
  const own = inputs.map(({ model, stored }) => boundedIds(vocabulary.ownIds(model), stored));
  const fills = createFills(task, own);
  return inputs.map(({ stored }, index) => {
    const writer = createRunWriter(stored);
    vocabulary.tokens.forEach((token, id) => {
      const row = own[index]?.[id] ?? -1;
      const isForced = token !== undefined && vocabulary.rules.get(token)?.force === true;
      if (row >= 0 && !isForced) writer.row(stored, row);
      else writeFill(writer, fills(id));
    });
    writer.padding(vocabulary.rows - vocabulary.tokens.length);
    const rows = writer.finish();
    if (rows !== undefined) checkDtype(task, index, rows);
    return { shape: [vocabulary.rows, ...stored.shape.slice(1)], rows };
  });
}

/** Rows can be computed, and be taken from another dtype, where they are floats. */
function checkDtype({ inputs, tensor, origin, vocabulary }: GatherTask, index: number, rows: RowGather): void {
  const tensors = [inputs[index]?.stored, ...rows.others].filter((stored) => stored !== undefined);
  const other = tensors.find(({ dtype }) => !isFloatDtype(dtype) && (dtype !== rows.dtype || computes(rows)));
  if (other === undefined) return;
  throw new MergeyardError("PlanDtypeNotMergeable", {
    where: { ...fieldPlace(origin, vocabulary.recipe.field), model: inputs[index]?.model, tensor },
    found: other.dtype,
    expected: "F32, F16, BF16 or F64 rows of tokens",
  });
}

function computes({ runs }: Pick<RowGather, "runs">): boolean {
  return runs.some(([from]) => from === ROWS_MEAN || from === ROWS_PADDING);
}

function boundedIds(ids: Int32Array, { shape }: StoredTensor): Int32Array {
  const rows = shape[0] ?? 0;
  return ids.map((id) => (id < rows ? id : -1));
}

function checkWidths({ inputs: [first, ...others], tensor, origin, vocabulary }: GatherTask): void {
  const width = ({ stored }: RowDonor) => stored.shape.slice(1).join(" x ");
  const other = others.find((input) => first !== undefined && width(input) !== width(first));
  if (first === undefined || other === undefined) return;
  throw new MergeyardError("PlanShapeMismatch", {
    where: { ...fieldPlace(origin, vocabulary.recipe.field), model: other.model, tensor },
    found: `[${other.stored.shape.join(", ")}]`,
    expected: `rows as wide as ${first.model}'s, [${first.stored.shape.join(", ")}]`,
    hint: "tokens can be matched between models of different vocabularies, but not of different width",
  });
}

/** What stands in for a token: rows whose mean it is; one row is itself, none is zeros. */
type Fill = readonly { readonly stored: StoredTensor; readonly row: number }[];

/**
 * The stand-in for the token of an output id, decided in this order: the recipe's; the only model's that has the token;
 * zeros when none has it; the base's; the mean of those that have it, in their order.
 */
function createFills(task: GatherTask, own: readonly Int32Array[]): (id: number) => Fill {
  const { vocabulary, inputs } = task;
  const known = new Map<number, Fill>();
  const decide = (id: number): Fill => {
    const rule = vocabulary.rules.get(vocabulary.tokens[id] ?? "");
    if (rule?.source !== undefined) return ruleFill(rule, task);
    const holders = inputs.flatMap(({ stored, isBase }, index) => {
      const row = own[index]?.[id] ?? -1;
      return row < 0 ? [] : [{ stored, row, isBase }];
    });
    const base = holders.find(({ isBase }) => isBase);
    return base === undefined ? holders : [base];
  };
  return (id) => {
    const fill = known.get(id) ?? decide(id);
    known.set(id, fill);
    return fill;
  };
}

function ruleFill({ token, source, field }: TokenRule, task: GatherTask): Fill {
  if (source === undefined || source.kind === "zero") return [];
  const { vocabulary, inputs, tensor, origin } = task;
  const { model } = source;
  const wanted = source.kind === "model" ? token : source.token;
  const id =
    wanted === undefined ? (source.kind === "model_token" ? source.id : undefined) : vocabulary.idOf(model, wanted);
  const stored = inputs.find((input) => input.model === model)?.stored ?? task.donor(model);
  const rows = stored?.shape[0] ?? 0;
  if (stored !== undefined && id !== undefined && id < rows) return [{ stored, row: id }];
  throw new MergeyardError("PlanTokenMissing", {
    where: { ...fieldPlace(origin, [...field, "source"]), model, tensor },
    found: stored === undefined ? "no such tensor" : id === undefined ? "no such token" : `${rows} rows`,
    expected: wanted === undefined ? `row ${id}` : `a row of ${JSON.stringify(wanted)}`,
  });
}

function writeFill(writer: RunWriter, fill: Fill): void {
  const [first, second] = fill;
  if (first === undefined) writer.zero();
  else if (second === undefined) writer.row(first.stored, first.row);
  else writer.mean(fill);
}

type RunWriter = {
  row(stored: StoredTensor, row: number): void;
  zero(): void;
  mean(fill: Fill): void;
  padding(rows: number): void;
  /** Undefined when the rows are those of the input's own tensor, all of them in their order. */
  finish(): RowGather | undefined;
};

type Run = RowGather["runs"][number];

function createRunWriter(own: StoredTensor): RunWriter {
  const runs: Run[] = [];
  const means: RowGather["means"] = [];
  const others = new Map<StoredTensor, number>();
  const indexOf = (stored: StoredTensor): number => {
    if (stored === own) return 0;
    const index = others.get(stored) ?? others.size + 1;
    others.set(stored, index);
    return index;
  };
  const append = (from: number, first: number, rows: number): void => {
    const last = runs.at(-1);
    const goesOn = last !== undefined && last[0] === from && (from === ROWS_ZERO || last[1] + last[2] === first);
    if (goesOn) last[2] += rows;
    else runs.push([from, first, rows]);
  };
  return {
    row: (stored, row) => append(indexOf(stored), row, 1),
    zero: () => append(ROWS_ZERO, 0, 1),
    mean(fill) {
      means.push(fill.map(({ stored, row }) => [indexOf(stored), row]));
      append(ROWS_MEAN, means.length - 1, 1);
    },
    padding(rows) {
      if (rows > 0) append(ROWS_PADDING, 0, rows);
    },
    finish() {
      const [first] = runs;
      const isOwn = first?.[0] === 0 && first[1] === 0 && first[2] === own.shape[0];
      if (runs.length === 1 && isOwn) return undefined;
      const converts = [...others.keys()].some(({ dtype }) => dtype !== own.dtype);
      const dtype = computes({ runs }) || converts ? "F32" : own.dtype;
      return { dtype, others: [...others.keys()], means, runs };
    },
  };
}
