// The tensors of an adapter by the module that they change, and those that it holds whole.
import type { TensorEntry } from "../checkpoint.ts";
import type { ErrorPlace } from "../error.ts";
import { readAdapterPart } from "./peft.ts";

/** The factors of one module's update, or the update of its bias. */
export type ModuleFactors = {
  /** As the adapter calls it. */
  readonly module: string;
  readonly kind: "weight" | "embedding" | "bias";
  a?: TensorEntry;
  b?: TensorEntry;
  /** The adapter and one of the tensors, for errors. */
  readonly where: ErrorPlace;
};

/** A tensor of the model that the adapter holds whole, and the model's name of it. */
export type WholeTensor = { readonly name: string; readonly entry: TensorEntry };

export type AdapterModules = { readonly modules: readonly ModuleFactors[]; readonly whole: readonly WholeTensor[] };

/** Sorts an adapter's tensors. Throws PlanAdapterNotSupported for parts of other kinds of adapter. */
export function groupAdapter(tensors: readonly TensorEntry[], place: ErrorPlace): AdapterModules {
  const modules = new Map<string, ModuleFactors>();
  const whole: WholeTensor[] = [];
  for (const entry of tensors) {
    const part = readAdapterPart(entry.name, place);
    if (part.kind === "whole") {
      whole.push({ name: part.name, entry });
      continue;
    }
    const kind = part.kind === "bias" ? "bias" : part.isEmbedding ? "embedding" : "weight";
    const key = `${kind} ${part.module}`;
    const factors = modules.get(key) ?? { module: part.module, kind, where: { ...place, tensor: entry.name } };
    if (part.kind === "factor" && part.side === "A") factors.a = entry;
    else factors.b = entry;
    modules.set(key, factors);
  }
  return { modules: [...modules.values()], whole };
}
