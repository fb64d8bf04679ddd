// What a merge needs beside its merge units when its method must know the whole model: how far the model reaches, that
// all of its tensors agree in what decisions use, and the prepare stages, one for each round, with one unit for each
// merge unit that has something to measure. From planned tensors alone.
import { layOutTotals } from "../artifact/totals-file.ts";
import { MergeyardError } from "../error.ts";
import type { MergeMethod, ModelExtent, Round } from "../methods/method.ts";
import type { Recipe } from "../recipe/normalise.ts";
import { describeValue, fieldPlace } from "../recipe/origin.ts";
import { elementCount } from "../tensor.ts";
import { measuringBytes } from "./memory.ts";
import { bytesOfInputs, type Fitted, fitTensors, type UnitOptions } from "./merge-units.ts";
import type { PlannedTensor } from "./plan-tensor.ts";
import { type MergeUnit, modelsOf, type PrepareUnit, type UnitTensor } from "./schema.ts";

/** The rounds of a merge and the model that they are about: plain data but for the rounds' functions. */
export type RoundsPlan = { readonly rounds: readonly Round[]; readonly model: ModelExtent };

/** How the inputs of a unit's tensor come to decisions; models are named by the caller. */
type NameInput = (input: UnitTensor["inputs"][number]) => string;

/**
 * The rounds that the tensors of a merge ask for; undefined when the method asks for none. Throws PlanMethodRefused
 * when tensors differ in models or in parameters that rounds use, or when the method refuses the model.
 */
export function planRounds(
  tensors: readonly PlannedTensor[],
  method: MergeMethod,
  recipe: Recipe,
  nameOf: NameInput,
): RoundsPlan | undefined {
  const measured = tensors.filter((tensor) => tensor.method === method.id);
  const [first] = measured;
  const { wholeModel } = method;
  if (wholeModel === undefined || first === undefined) return undefined;
  if (measured.every((tensor) => wholeModel.rounds(tensor).length === 0)) return undefined;
  for (const tensor of measured) refuseUneven(tensor, first, wholeModel.shared, recipe, nameOf);
  const model = describeExtent(measured, nameOf);
  const refusal = wholeModel.refuse?.(model);
  if (refusal !== undefined) {
    const { parameter, found, expected, hint } = refusal;
    const where = fieldPlace(recipe.origin, parameter === undefined ? ["merge_method"] : ["parameters", parameter]);
    throw new MergeyardError("PlanMethodRefused", { where: { ...where, model: refusal.model }, found, expected, hint });
  }
  return { rounds: wholeModel.rounds(model), model };
}

function describeExtent(measured: readonly PlannedTensor[], nameOf: NameInput): ModelExtent {
  const { parameters = {}, inputs = [] } = measured[0] ?? {};
  return {
    elements: measured.reduce((sum, { shape }) => sum + elementCount(shape), 0),
    tensors: measured.length,
    parameters,
    inputs: modelsOf(inputs).map((input) => ({
      model: nameOf(input),
      isBase: input.isBase,
      parameters: input.parameters,
    })),
  };
}

/** Decisions are about one model made of the same parents everywhere. */
function refuseUneven(
  tensor: PlannedTensor,
  first: PlannedTensor,
  shared: readonly string[],
  recipe: Recipe,
  nameOf: NameInput,
): void {
  const refuse = (field: readonly string[], found: string, expected: string, hint: string): never => {
    const where = { ...fieldPlace(recipe.origin, field), tensor: tensor.name };
    throw new MergeyardError("PlanMethodRefused", { where, found, expected: `${expected}, as in ${first.name}`, hint });
  };
  const namesOf = ({ inputs }: PlannedTensor) => modelsOf(inputs).map(nameOf).join(", ");
  if (namesOf(tensor) !== namesOf(first)) {
    const hint = `${recipe.method} looks at whole models: every tensor must come from the same ones`;
    refuse(["merge_method"], namesOf(tensor), namesOf(first), hint);
  }
  for (const name of shared) {
    const valuesOf = ({ parameters, inputs }: PlannedTensor) =>
      [parameters[name], ...inputs.map((input) => input.parameters[name])].filter((value) => value !== undefined);
    const [own, other] = [valuesOf(tensor), valuesOf(first)].map((values) => describeValue(values));
    if (own === other || own === undefined || other === undefined) continue;
    const hint = `${recipe.method} looks at whole models: write one value of ${name} for all tensors`;
    refuse(["parameters", name], own, other, hint);
  }
}

/** What merge units say of the rounds, whose stages begin at `stage`. */
export function describePrepared({ rounds, model }: RoundsPlan, stage: number): NonNullable<MergeUnit["prepared"]> {
  const { elements, tensors } = model;
  return { stages: rounds.map((_, index) => stage + index), elements, tensors };
}

/** The units of every round; `units` are the merge units, the rounds' stages begin at `stage`. */
export function makePrepareUnits(
  units: readonly MergeUnit[],
  { rounds }: RoundsPlan,
  stage: number,
  options: UnitOptions,
): readonly (readonly Fitted<PrepareUnit>[])[] {
  const measuring = units.filter(({ prepared }) => prepared !== undefined);
  const { locality } = options.method;
  return rounds.map((round, place) => {
    const bytesOf = (tensor: UnitTensor, windowElements: number) =>
      measuringBytes({ locality, round }, tensor, windowElements);
    return measuring.map((measured, index): Fitted<PrepareUnit> => {
      const tensors = measured.tensors.filter(({ method }) => method === options.method.id);
      const [first] = tensors;
      const totals = first === undefined ? {} : round.totals(first);
      const { fit, need } = fitTensors(tensors, bytesOf, options);
      const unit: PrepareUnit = {
        op: "prepare",
        stage: stage + place,
        index,
        round: place,
        of: { stage: measured.stage, index: measured.index },
        peakBytes: fit.peakBytes,
        bytesRead: tensors.reduce((sum, tensor) => sum + bytesOfInputs(tensor), 0),
        bytesWritten: layOutTotals(totals, tensors.length).fileBytes,
      };
      return { unit, need };
    });
  });
}
