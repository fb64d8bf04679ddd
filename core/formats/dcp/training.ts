// What a trainer's names in a distributed checkpoint mean: `model.NAME`, or NAME alone as torchtitan has it, and
// `optim.state.NAME.exp_avg` become one parameter with its states. Only a checkpoint whose states are complete is read
// so; of any other model.ts chooses the model's tensors. Two names of one place are one parameter with an alias.
// Source: torch.distributed.checkpoint.state_dict; torchtitan; reference checkpoint-formats.md section 6.1.
import { elementCount } from "../../tensor.ts";
import { type ConversionParameter, type GatheredTensor, STATE_NAMES } from "../../universal/conversion.ts";

const STATE = /^((?:[A-Za-z_]\w*\.)*?)(?:optim|optimizer|optimizer_0)\.state\.(.+)\.([^.]+)$/;
/** What a universal checkpoint keeps of an optimizer; every trained parameter has all of them. */
const KEPT: readonly string[] = [...STATE_NAMES, "step"];

/** Reads the count of steps in a tensor of one element; undefined when it is none. */
type ReadStep = (tensor: ConversionParameter) => Promise<number | undefined>;

export type FoldedTraining = {
  readonly parameters: readonly ConversionParameter[];
  /** What the names of the trainer's dicts begin with; undefined where there is no whole training state. */
  readonly prefix: string | undefined;
  /** States of another optimizer or variant, beside those that are kept. */
  readonly ignored: readonly string[];
};

/** The parameters with their states, or the tensors as they were when these are no whole training state. */
export async function foldTraining(
  tensors: readonly ConversionParameter[],
  readStep: ReadStep,
): Promise<FoldedTraining> {
  const joined = joinAliases(tensors);
  const plain: FoldedTraining = { parameters: joined, prefix: undefined, ignored: [] };
  const states = new Map<string, Map<string, ConversionParameter>>();
  let prefix: string | undefined;
  for (const tensor of joined) {
    const [, before = "", name = "", state = ""] = STATE.exec(tensor.name) ?? [];
    if (name === "") continue;
    prefix ??= before;
    if (before !== prefix) return plain;
    states.set(name, (states.get(name) ?? new Map<string, ConversionParameter>()).set(state, tensor));
  }
  const isWhole = [...states.values()].every((each) => KEPT.every((state) => each.has(state)));
  if (prefix === undefined || !isWhole) return plain;
  const names = new Set(joined.map(({ name }) => name));
  const own = [`${prefix}model.`, prefix].find((before) => states.keys().every((name) => names.has(before + name)));
  if (own === undefined) return plain;
  const taken = new Set([...states.values()].flatMap((each) => [...each.values()]));
  const folded: ConversionParameter[] = [];
  for (const tensor of joined) {
    if (taken.has(tensor)) continue;
    if (![tensor.name, ...tensor.aliases].every((name) => name.startsWith(own))) return plain;
    const [name = "", ...aliases] = [tensor.name, ...tensor.aliases].map((each) => each.slice(own.length));
    const held = states.get(name);
    states.delete(name);
    const training = held === undefined ? undefined : await trainingOf(tensor, held, readStep);
    if (held !== undefined && training === undefined) return plain;
    folded.push({ ...tensor, name, aliases, training });
  }
  const ignored = new Set(
    [...taken].map(({ name }) => STATE.exec(name)?.[3] ?? "").filter((state) => !KEPT.includes(state)),
  );
  return states.size === 0 ? { parameters: folded, prefix, ignored: [...ignored] } : plain;
}

async function trainingOf(
  { shape }: ConversionParameter,
  held: ReadonlyMap<string, ConversionParameter>,
  readStep: ReadStep,
): Promise<ConversionParameter["training"]> {
  const stepTensor = held.get("step");
  const isScalar = stepTensor !== undefined && elementCount(stepTensor.shape) === 1;
  const step = isScalar ? await readStep(stepTensor) : undefined;
  const moments = STATE_NAMES.flatMap((state): [string, GatheredTensor][] => {
    const moment = held.get(state);
    return moment?.shape.join() === shape.join() ? [[state, { dtype: moment.dtype, gather: moment.gather }]] : [];
  });
  if (step === undefined || moments.length < STATE_NAMES.length) return undefined;
  return { step, states: Object.fromEntries(moments) };
}

/** Tensors that lie at the same places are one: tied weights. */
function joinAliases(tensors: readonly ConversionParameter[]): readonly ConversionParameter[] {
  const places = ({ name, dtype, shape, gather }: ConversionParameter): string => {
    const ranges = gather.copies.flat().flatMap((box) => box.ranges);
    return elementCount(shape) === 0 || ranges.length === 0 ? name : JSON.stringify([dtype, gather]);
  };
  return [...Map.groupBy(tensors, places).values()].flatMap(([first, ...others]) =>
    first === undefined ? [] : [{ ...first, aliases: others.map(({ name }) => name) }],
  );
}
