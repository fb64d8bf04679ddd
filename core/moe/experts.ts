// The experts of a mixture-of-experts model by the names of its tensors. Data, not code: a family is a pattern and the
// parts of an expert.
// Source: parameter names of transformers' model classes.
import type { TensorEntry } from "../checkpoint.ts";
import { MergeyardError } from "../error.ts";

/** One expert: its first matrices [inner, model], one or two with a gate, and its last one [model, inner]. */
export type Expert = { readonly number: number; readonly first: readonly TensorEntry[]; readonly last: TensorEntry };

/** One layer's experts in order, numbered from 0. `prefix`: the names' part before the experts. */
export type ExpertLayer = {
  readonly prefix: string;
  readonly experts: readonly Expert[];
  /** One row for each expert; absent where the model has none of the known name. */
  readonly router: TensorEntry | undefined;
  /** Keys of config.json one of which has the number of experts. */
  readonly counts: readonly string[];
};

type Family = {
  /** Prefix, number, part. */
  readonly pattern: RegExp;
  readonly first: readonly string[];
  readonly last: string;
  readonly router: string;
  /** Where config.json counts them; models of one form differ. */
  readonly counts: readonly string[];
};

const FAMILIES: readonly Family[] = [
  // Mixtral, PhiMoE
  {
    pattern: /^(.*block_sparse_moe)\.experts\.(\d+)\.(\w+)\.weight$/,
    first: ["w1", "w3"],
    last: "w2",
    router: "gate.weight",
    counts: ["num_local_experts"],
  },
  // Qwen-MoE, OLMoE, DeepSeek; transformers 5 saves Qwen3-MoE with num_local_experts
  {
    pattern: /^(.*mlp)\.experts\.(\d+)\.(\w+)\.weight$/,
    first: ["gate_proj", "up_proj"],
    last: "down_proj",
    router: "gate.weight",
    counts: ["num_experts", "n_routed_experts", "num_local_experts"],
  },
  // Switch Transformers
  {
    pattern: /^(.*mlp)\.experts\.expert_(\d+)\.(\w+)\.weight$/,
    first: ["wi"],
    last: "wo",
    router: "router.classifier.weight",
    counts: ["num_experts"],
  },
];

/**
 * The layers with experts, in the order of the file. Throws MoeModelUnknown for a model without any, and for experts
 * that have other parts than their family's.
 */
export function findExpertLayers(tensors: readonly TensorEntry[]): readonly ExpertLayer[] {
  const isExpert = ({ name }: TensorEntry) => /\.experts\./.test(name);
  const family = FAMILIES.find(({ pattern }) => tensors.some(({ name }) => pattern.test(name)));
  const unknown = tensors.find((entry) => isExpert(entry) && family?.pattern.test(entry.name) !== true);
  if (family === undefined || unknown !== undefined) throw unknownModel(unknown);
  const byName = new Map(tensors.map((entry) => [entry.name, entry]));
  const parts = tensors.flatMap((entry) => {
    const [, prefix = "", number = "", part = ""] = family.pattern.exec(entry.name) ?? [];
    return prefix === "" ? [] : [{ entry, prefix, number: Number(number), part }];
  });
  return [...Map.groupBy(parts, ({ prefix }) => prefix)].map(([prefix, own]) => {
    const numbers = [...new Set(own.map(({ number }) => number))].sort((a, b) => a - b);
    const experts = numbers.map((number, index): Expert => {
      const ofExpert = own.filter((part) => part.number === number);
      const partOf = (name: string): TensorEntry => {
        const found = ofExpert.find(({ part }) => part === name)?.entry;
        if (found === undefined || found.shape.length !== 2 || number !== index) throw unknownModel(ofExpert[0]?.entry);
        return found;
      };
      if (ofExpert.length !== family.first.length + 1) throw unknownModel(ofExpert[0]?.entry);
      return { number, first: family.first.map(partOf), last: partOf(family.last) };
    });
    checkShapes(experts);
    return { prefix, experts, router: byName.get(`${prefix}.${family.router}`), counts: family.counts };
  });
}

/** All experts of a layer have one shape. */
function checkShapes(experts: readonly Expert[]): void {
  const [inner, width] = experts[0]?.first[0]?.shape ?? [];
  for (const { first, last } of experts) {
    const other = first.find(({ shape }) => shape[0] !== inner || shape[1] !== width);
    const wrong = other ?? (last.shape[0] === width && last.shape[1] === inner ? undefined : last);
    if (wrong !== undefined) throw unknownModel(wrong);
  }
}

function unknownModel(entry: TensorEntry | undefined): MergeyardError {
  const found = entry === undefined ? "no experts" : `a part of shape [${entry.shape.join(", ")}]`;
  const expected = "experts of two or three matrices of one shape, as Mixtral's, Qwen's or Switch's, numbered from 0";
  return new MergeyardError("MoeModelUnknown", { where: { tensor: entry?.name }, found, expected });
}
