// Statistics that a recipe gives beside its models: that the method takes them, that every model has them, and which
// tensor of them goes with which of the model's. From headers alone.
import type { TensorEntry } from "../checkpoint.ts";
import { type ErrorPlace, MergeyardError } from "../error.ts";
import type { MergeMethod, StatisticsNeed } from "../methods/method.ts";
import { findMethod, METHOD_IDS } from "../methods/registry.ts";
import { isFloatDtype } from "../ops/cast.ts";
import type { Recipe } from "../recipe/normalise.ts";
import { fieldPlace } from "../recipe/origin.ts";
import type { RecipeSource } from "../recipe/slices.ts";
import { type Shape, sameShape } from "../tensor.ts";
import { storedTensor } from "./adapter.ts";
import type { MergeModel } from "./merge-task.ts";
import type { UnitInput } from "./schema.ts";

/** A model's part in an output tensor, as far as its statistic must fit it. */
export type StatisticOwner = {
  readonly source: RecipeSource;
  /** The tensor that is read of the model. */
  readonly entry: TensorEntry;
  /** Defined where rows are put in another order. */
  readonly rows?: unknown;
};

export type StatisticsPlan = {
  /** The inputs that go beside those of an output tensor: one for each, or none where no model has any. */
  inputsOf(tensor: string, owners: readonly StatisticOwner[], shape: Shape): readonly UnitInput[];
  /** Once all tensors are planned. Throws PlanTensorMissing for statistics of which nothing was used. */
  checkUsed(): void;
};

/**
 * Looks statistics up for one merge; `models` are those of `recipe.sources`. Throws RecipeFieldInvalid for statistics
 * that the method does not take, and for a model without those that it needs.
 */
export function createStatisticsPlan(
  recipe: Recipe,
  method: MergeMethod,
  models: readonly MergeModel[],
): StatisticsPlan {
  const { statistics: need } = method;
  const sources = recipe.slices.flatMap((slice) => slice.sources);
  for (const source of sources) checkSource(recipe, method, source);
  if (need === undefined) return { inputsOf: () => [], checkUsed: () => undefined };
  const files = new Map(
    models.map(({ source, checkpoint }, index) => {
      return [source.model, { index, tensors: new Map(checkpoint.tensors.map((entry) => [entry.name, entry])) }];
    }),
  );
  const used = new Set<string>();
  return {
    inputsOf(tensor, owners, shape) {
      const found = owners.map((owner): Found => {
        const file = files.get(owner.source.statistics ?? "");
        const entry = file?.tensors.get(owner.entry.name) ?? file?.tensors.get(moduleOf(owner.entry.name));
        return { owner, entry, index: file?.index ?? 0 };
      });
      const holder = found.find(({ entry }) => entry !== undefined);
      if (holder === undefined) return [];
      return found.map(({ owner, entry, index }): UnitInput => {
        const where = { ...placeOf(recipe, owner.source), tensor: entry?.name ?? owner.entry.name };
        if (entry === undefined) throw missingError(where, need, holder, tensor);
        checkEntry({ where, method, need, shape, owner }, entry);
        used.add(owner.source.statistics ?? "");
        const statistic = method.locality === "tensor" ? "whole" : "elements";
        return { ...storedTensor(entry, index), isBase: false, statistic, parameters: {} };
      });
    },
    checkUsed() {
      const idle = sources.find(({ statistics }) => !used.has(statistics ?? ""));
      if (idle === undefined) return;
      const [first] = files.get(idle.statistics ?? "")?.tensors.keys() ?? [];
      throw new MergeyardError("PlanTensorMissing", {
        where: placeOf(recipe, idle),
        found: first === undefined ? "no tensors" : `tensors that the model does not have, such as ${first}`,
        expected: `${need.title} under the names of the model's tensors`,
      });
    },
  };
}

type Found = { readonly owner: StatisticOwner; readonly entry: TensorEntry | undefined; readonly index: number };

/** Tools name what they measure of a layer by the layer. */
function moduleOf(name: string): string {
  return name.replace(/\.weight$/, "");
}

function placeOf(recipe: Recipe, { statistics, field }: RecipeSource): ErrorPlace {
  return { ...fieldPlace(recipe.origin, [...field, "statistics"]), model: statistics };
}

function checkSource(recipe: Recipe, { id, statistics: need }: MergeMethod, source: RecipeSource): void {
  if ((need === undefined) === (source.statistics === undefined)) return;
  if (need === undefined) {
    const takers = METHOD_IDS.filter((own) => findMethod(own)?.statistics !== undefined);
    throw new MergeyardError("RecipeFieldInvalid", {
      where: placeOf(recipe, source),
      found: `statistics for ${id}`,
      expected: `none: only ${takers.join(" and ")} take them`,
    });
  }
  throw new MergeyardError("RecipeFieldInvalid", {
    where: { ...fieldPlace(recipe.origin, source.field), model: source.model },
    found: "no statistics",
    expected: `\`statistics\`: ${need.title}, which ${id} needs of every model`,
  });
}

function missingError(where: ErrorPlace, need: StatisticsNeed, { owner, entry }: Found, tensor: string) {
  return new MergeyardError("PlanTensorMissing", {
    where,
    found: "no such tensor",
    expected: `${need.title} of every model, as in ${owner.source.statistics}`,
    hint: `leave ${entry?.name ?? tensor} out of all statistics to average the tensor instead`,
  });
}

type Checking = {
  readonly where: ErrorPlace;
  readonly method: MergeMethod;
  readonly need: StatisticsNeed;
  readonly shape: Shape;
  readonly owner: StatisticOwner;
};

function checkEntry({ where, method, need, shape, owner }: Checking, entry: TensorEntry): void {
  const expected = need.shapeOf(shape);
  if (expected === undefined || !sameShape(entry.shape, expected)) {
    throw new MergeyardError("PlanShapeMismatch", {
      where,
      found: `[${entry.shape.join(", ")}]`,
      expected:
        expected === undefined
          ? `nothing: ${method.id} takes no statistics of tensors of shape [${shape.join(", ")}]`
          : `[${expected.join(", ")}], for a tensor of shape [${shape.join(", ")}]`,
    });
  }
  if (!isFloatDtype(entry.dtype)) {
    const floats = `F32, F16, BF16 or F64 for ${method.id}`;
    throw new MergeyardError("PlanDtypeNotMergeable", { where, found: entry.dtype, expected: floats });
  }
  if (!need.followsRows || owner.rows === undefined) return;
  throw new MergeyardError("PlanMethodRefused", {
    where,
    found: "statistics of rows that the new vocabulary puts in another order",
    expected: "a tensor whose rows stay where they are",
    hint: `keep the base's tokenizer, or leave ${entry.name} out of all statistics to average the tensor instead`,
  });
}
