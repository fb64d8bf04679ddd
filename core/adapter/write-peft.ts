// An adapter as PEFT saves it, written: names of tensors, and adapter_config.json.
import { canonicalJson } from "../artifact/digest.ts";

export const ADAPTER_MODEL_FILE = "adapter_model.safetensors";

const PREFIX = "base_model.model.";

/** Names of a module's factors, and of the update of its bias. */
export function factorNames(module: string, isEmbedding: boolean): { readonly a: string; readonly b: string } {
  const prefix = `${PREFIX}${module}`;
  return isEmbedding
    ? { a: `${prefix}.lora_embedding_A`, b: `${prefix}.lora_embedding_B` }
    : { a: `${prefix}.lora_A.weight`, b: `${prefix}.lora_B.weight` };
}

export function biasName(module: string): string {
  return `${PREFIX}${module}.lora_B.bias`;
}

/** Name of a tensor of the model that the adapter holds whole. */
export function wholeName(name: string): string {
  return `${PREFIX}${name}`;
}

/** The same tensor of an adapter with the model's part of its name turned into another. */
export function renameModule(name: string, rename: (own: string) => string): string {
  return `${PREFIX}${rename(name.slice(PREFIX.length))}`;
}

export type WrittenAdapter = {
  readonly base: string | null;
  readonly taskType: string | null;
  readonly storesInputFirst: boolean;
  /** Rank of each module with factors. */
  readonly ranks: ReadonlyMap<string, number>;
  /** Names of the modules that are held whole. */
  readonly whole: readonly string[];
  readonly hasBias: boolean;
};

/**
 * adapter_config.json of an adapter whose scale is 1 everywhere: alpha is the rank, module by module. Modules are
 * targeted by the last part of their names. Those that are held whole have their paths: PEFT takes every module whose
 * name ends so, even within a word, and wants the tensors of each.
 */
export function encodeAdapterConfig(adapter: WrittenAdapter): Uint8Array<ArrayBuffer> {
  const rank = [...adapter.ranks.values()].reduce((most, own) => Math.max(most, own), 1);
  const pattern = Object.fromEntries([...adapter.ranks].filter(([, own]) => own !== rank));
  const lastParts = (names: Iterable<string>) =>
    [...new Set([...names].map((name) => name.split(".").at(-1) ?? name))].sort();
  const document = {
    peft_type: "LORA",
    task_type: adapter.taskType,
    base_model_name_or_path: adapter.base,
    inference_mode: true,
    r: rank,
    lora_alpha: rank,
    rank_pattern: pattern,
    alpha_pattern: pattern,
    lora_dropout: 0,
    bias: "none",
    lora_bias: adapter.hasBias,
    fan_in_fan_out: adapter.storesInputFirst,
    use_rslora: false,
    use_dora: false,
    init_lora_weights: true,
    target_modules: lastParts(adapter.ranks.keys()),
    modules_to_save: adapter.whole.length === 0 ? null : outermost(adapter.whole),
  };
  return new TextEncoder().encode(canonicalJson(document));
}

/** The modules that lie in no other one, sorted: PEFT wraps no module twice. */
function outermost(modules: readonly string[]): readonly string[] {
  const all = [...new Set(modules)];
  return all.filter((module) => !all.some((other) => module.startsWith(`${other}.`))).sort();
}
