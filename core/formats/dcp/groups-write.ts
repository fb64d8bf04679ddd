// Groups of the optimizer for a distributed checkpoint: each hyper-parameter is one pickled object, under the group's
// number and under the name of each of its parameters, since a trainer asks for the one form or the other. Called by
// the writer of such checkpoints.
// Source: torch.distributed.checkpoint.state_dict (_flatten_optim_state_dict).
import type { TargetParameter } from "../../universal/conversion.ts";
import { areGroupsKnown, groupTrained } from "../../universal/optimizer-groups.ts";
import type { TrainingState } from "../../universal/training-state.ts";
import { type Picklable, pyList } from "../pickle/write.ts";
import { hyperparameterValue } from "../torch/write.ts";

/** Where something stands in the trainer's nested dicts and lists. */
export type DcpPath = readonly (string | number)[];
export type GroupObject = { readonly value: Picklable; readonly paths: readonly DcpPath[] };

/** Nothing where the source does not tell every trained parameter's place and every group's hyper-parameters. */
export function groupObjects(
  parameters: readonly TargetParameter[],
  training: TrainingState | undefined,
): readonly GroupObject[] {
  const members = groupTrained(parameters);
  if (training === undefined || !areGroupsKnown(members, training)) return [];
  return training.groups.flatMap((hyperparameters, index): GroupObject[] => {
    const names = (members[index] ?? []).map(({ name }) => name);
    const own = (key: string): DcpPath => ["optim", "param_groups", index, key];
    return [
      ...Object.entries(hyperparameters).map(([key, value]) => ({
        value: hyperparameterValue(key, value),
        paths: [own(key), ...names.map((name): DcpPath => ["optim", `param_groups.${name}.${key}`])],
      })),
      { value: pyList(names), paths: [own("params")] },
    ];
  });
}
