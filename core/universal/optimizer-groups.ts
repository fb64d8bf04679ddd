// The optimizer's groups and the trained parameters in them: what readers place and writers ask for, whatever the
// format.
import type { ConversionParameter, TargetParameter } from "./conversion.ts";
import type { TrainingState } from "./training-state.ts";

/** Optimizer group, and place among its parameters. */
export type GroupPlace = { readonly group: number; readonly position: number };

/** A parameter with optimizer states. */
export type TrainedOne = TargetParameter & { readonly training: NonNullable<TargetParameter["training"]> };

/** The parameters, the trained ones with their places. */
export function placeTrained(
  parameters: readonly ConversionParameter[],
  places: ReadonlyMap<string, GroupPlace>,
): readonly ConversionParameter[] {
  return parameters.map((parameter) =>
    parameter.training === undefined
      ? parameter
      : { ...parameter, training: { ...parameter.training, ...places.get(parameter.name) } },
  );
}

/** The trained parameters by group, each in the optimizer's order, or by name where the source has no such order. */
export function groupTrained(parameters: readonly TargetParameter[]): readonly (readonly TrainedOne[])[] {
  const trained = parameters.flatMap((parameter) =>
    parameter.training === undefined ? [] : [{ ...parameter, training: parameter.training }],
  );
  const byGroup = Map.groupBy(trained, ({ training }) => training.group ?? 0);
  const groups = Array.from({ length: Math.max(-1, ...byGroup.keys()) + 1 }, (_, group) => byGroup.get(group) ?? []);
  const placeOf = ({ training }: TrainedOne) => training.position ?? Number.MAX_SAFE_INTEGER;
  return groups.map((group) => group.sort((a, b) => placeOf(a) - placeOf(b) || (a.name < b.name ? -1 : 1)));
}

/** Whether the source tells every trained parameter's place and every group's hyper-parameters. */
export function areGroupsKnown(
  groups: readonly (readonly TrainedOne[])[],
  training: TrainingState | undefined,
): boolean {
  const arePlaced = groups.flat().every((each) => each.training.position !== undefined);
  return arePlaced && groups.every((_, index) => training?.groups[index] !== undefined);
}
