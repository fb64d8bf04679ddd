// What is measured: two families of small trained models, the merges of each with the strengths that their README's
// tables give, one in number formats, and one with experts that are merged among themselves. A row's label is that of
// the README's table, whose numbers stand below the measured ones.
import type { Format } from "./formats.ts";

export type Merge = Readonly<Record<string, unknown>>;

export type Row = {
  readonly label: string;
  /** Label of the README's row, where it has another. */
  readonly stated?: string;
  /**
   * A recipe over the suite's folders; a folder as it is; the base in a number format; options of `merge-experts`, with
   * router statistics of the calibration text where they say so; or, for `individual`, each task's own fine-tune.
   */
  readonly model:
    | { readonly merge: Merge }
    | { readonly folder: string }
    | { readonly format: Format }
    | { readonly experts: readonly string[]; readonly calibrated: boolean }
    | "individual";
};

export type Suite = {
  readonly id: string;
  /** Under the folder of all models; `data` holds the tasks' samples. */
  readonly folder: string;
  readonly data: string;
  readonly kind: "vit" | "llama";
  readonly title: string;
  /** accuracy rises with quality, bits per byte fall. */
  readonly better: "higher" | "lower";
  readonly samples: { readonly quick: number; readonly full: number };
  readonly digits: number;
  /** Label of the row that verdicts compare with. */
  readonly base: string;
  readonly tasks: readonly string[];
  readonly rows: readonly Row[];
};

const VIT_TASKS = ["mnist", "fashion", "kmnist", "notmnist", "cifar10", "gtsrb", "letters", "fontdigits"];
const LM_TASKS = ["shakespeare", "python", "licences", "bible"];

const FORMATS = [
  ...["f16", "q8_0", "q6_k", "q5_k", "q4_k", "iq4_nl", "q4_0", "q3_k", "q2_k"],
  ...["fp8_channel", "int4_group128", "int4_group32", "nf4_block64", "hqq4_group64"],
];
const PLAN_CANDIDATES = ["q2_k", "q3_k", "iq4_xs", "q4_k", "q5_k", "q6_k", "q8_0"];
/** Bits a weight of the language model with every matrix in Q4_K, its vectors in float32. */
const Q4_K_BITS = 4.537;

/** Recipes over one base and its fine-tunes. */
function merging(base: string, tasks: readonly string[]) {
  const models = tasks.map((task) => ({ model: `ft-${task}` }));
  const recipe = (method: string, parameters: Merge, all: Merge = {}): Row["model"] => ({
    merge: { merge_method: method, base_model: base, models, parameters, dtype: "float32", ...all },
  });
  return {
    average: { merge: { merge_method: "linear", models, parameters: { weight: 1 }, dtype: "float32" } },
    taskArithmetic: (weight: number) => recipe("task_arithmetic", { weight }),
    ties: (density: number, lambda: number) => recipe("ties", { weight: 1, density, lambda }),
    /** One threshold for each whole model. */
    tiesPaper: (percent: number, lambda: number) => recipe("ties_paper", { top_k_percent: percent, lambda }),
    pcb: (ratio: number, lambda: number) => recipe("pcb", { pcb_ratio: ratio, lambda }),
    dareLinear: (density: number, weight: number) => recipe("dare_linear", { weight, density }, { random_seed: 1 }),
    dareTies: (density: number, lambda: number) =>
      recipe("dare_ties", { weight: 1, density, lambda }, { random_seed: 1 }),
    /** `kept`: parts of names of tensors without ranks along their second axis, which are not sparsified. */
    della: (density: number, epsilon: number, lambda: number, kept: readonly string[] = []) => {
      const densities = [...kept.map((filter) => ({ filter, value: 1 })), { value: density }];
      return recipe("della", { weight: 1, density: densities, epsilon, lambda }, { random_seed: 1 });
    },
    breadcrumbs: (density: number, gamma: number, weight: number) =>
      recipe("breadcrumbs", { weight, density, gamma, normalize: false }),
  } as const;
}

const vit = merging("base", VIT_TASKS);
const lm = merging("base", LM_TASKS);

export const SUITES: readonly Suite[] = [
  {
    id: "vit-tiny",
    folder: "vit-tiny",
    data: "vit-tiny/data",
    kind: "vit",
    title: "one vision transformer for eight tasks, accuracy in percent",
    better: "higher",
    samples: { quick: 250, full: 1000 },
    digits: 1,
    base: "base",
    tasks: VIT_TASKS,
    rows: [
      { label: "base", model: { folder: "base" } },
      { label: "individual", model: "individual" },
      { label: "weight average", model: vit.average },
      ...[0.3, 0.5, 0.7, 1].map((weight) => ({
        label: `task arithmetic ${weight.toFixed(1)}`,
        model: vit.taskArithmetic(weight),
      })),
      ...[1, 1.5, 2, 2.5].map((lambda) => ({ label: `ties k20 ${lambda.toFixed(1)}`, model: vit.ties(0.2, lambda) })),
      ...[1, 1.5, 2, 2.5].map((lambda) => ({
        label: `ties_paper k20 ${lambda.toFixed(1)}`,
        stated: `ties k20 ${lambda.toFixed(1)}`,
        model: vit.tiesPaper(20, lambda),
      })),
      ...[1, 1.4, 1.8].map((lambda) => ({ label: `pcb r0.2 ${lambda.toFixed(1)}`, model: vit.pcb(0.2, lambda) })),
      { label: "dare p0.9 0.3", model: vit.dareLinear(0.1, 0.3) },
      { label: "dare_ties p0.8 1.5", model: vit.dareTies(0.2, 1.5) },
      { label: "della p0.6 1.5", model: vit.della(0.4, 0.2, 1.5, ["cls_token", "patch_embeddings"]) },
      { label: "breadcrumbs 0.5", model: vit.breadcrumbs(0.9, 0.01, 0.5) },
    ],
  },
  {
    id: "lm-tiny",
    folder: "lm-tiny",
    data: "lm-tiny/data",
    kind: "llama",
    title: "one language model for four kinds of text, bits per byte",
    better: "lower",
    samples: { quick: 64, full: 1000 },
    digits: 3,
    base: "base",
    tasks: LM_TASKS,
    rows: [
      { label: "base", model: { folder: "base" } },
      ...LM_TASKS.map((task) => ({ label: `fine-tune ${task}`, model: { folder: `ft-${task}` } })),
      { label: "weight average", model: lm.average },
      ...[0.1, 0.2, 0.3, 0.4].map((weight) => ({
        label: `task arithmetic ${weight.toFixed(1)}`,
        model: lm.taskArithmetic(weight),
      })),
      ...[0.3, 0.5, 0.7, 1].map((lambda) => ({ label: `ties k20 ${lambda.toFixed(1)}`, model: lm.ties(0.2, lambda) })),
      ...[0.3, 0.5, 0.7, 1].map((lambda) => ({
        label: `ties_paper k20 ${lambda.toFixed(1)}`,
        stated: `ties k20 ${lambda.toFixed(1)}`,
        model: lm.tiesPaper(20, lambda),
      })),
      ...[0.3, 1].map((lambda) => ({ label: `pcb r0.2 ${lambda.toFixed(1)}`, model: lm.pcb(0.2, lambda) })),
      { label: "dare p0.9 lambda 0.2", model: lm.dareLinear(0.1, 0.2) },
      { label: "dare_ties p0.8 0.3", model: lm.dareTies(0.2, 0.3) },
      { label: "della p0.6 0.3", model: lm.della(0.4, 0.2, 0.3) },
      { label: "breadcrumbs 0.1", model: lm.breadcrumbs(0.9, 0.01, 0.1) },
      ...["shakespeare", "python"].map((task) => ({
        label: `lora ${task}`,
        model: { merge: { merge_method: "passthrough", models: [{ model: `base+lora-${task}` }], dtype: "float32" } },
      })),
      {
        label: "lora both, half each",
        model: {
          merge: {
            merge_method: "task_arithmetic",
            base_model: "base",
            models: [{ model: "base+lora-shakespeare" }, { model: "base+lora-python" }],
            parameters: { weight: 0.5 },
            dtype: "float32",
          },
        },
      },
    ],
  },
  {
    id: "lm-tiny-formats",
    folder: "lm-tiny",
    data: "lm-tiny/data",
    kind: "llama",
    title: "the language model in number formats, bits per byte",
    better: "lower",
    samples: { quick: 64, full: 1000 },
    digits: 4,
    base: "q4_k",
    tasks: LM_TASKS,
    rows: [
      { label: "base", model: { folder: "base" } },
      ...FORMATS.map((scheme) => ({ label: scheme, model: { format: { scheme } } })),
      { label: "double rounding 8 to 4", model: { format: { derivedBits: 4 } } },
      ...["squared", "relative"].map((sensitivity) => ({
        label: `plan of q4_k's size, ${sensitivity}`,
        model: { format: { bits: Q4_K_BITS, candidates: PLAN_CANDIDATES, sensitivity } },
      })),
    ],
  },
  {
    id: "moe-tiny",
    folder: "moe-tiny",
    data: "lm-tiny/data",
    kind: "llama",
    title: "eight experts of a language model merged to fewer, bits per byte",
    better: "lower",
    samples: { quick: 64, full: 1000 },
    digits: 3,
    base: "moe 8 experts",
    tasks: LM_TASKS,
    rows: [
      { label: "moe 8 experts", model: { folder: "" } },
      ...[7, 6, 4].map((groups) => ({
        label: `8 to ${groups}, by use, aligned`,
        model: { experts: ["--groups", String(groups)], calibrated: true },
      })),
      {
        label: "8 to 4, by use, aligned, shrunk",
        model: { experts: ["--groups", "4", "--shrink"], calibrated: true },
      },
      {
        label: "8 to 4, by use, not aligned",
        stated: "8 to 4, router groups, by use",
        model: { experts: ["--groups", "4", "--align", "none"], calibrated: true },
      },
      { label: "8 to 4, data-free, aligned", model: { experts: ["--groups", "4", "--data-free"], calibrated: false } },
      ...["0.5", "0.15"].map((ratio) => ({
        label: `low rank ${ratio}, a quarter of rows`,
        model: { experts: ["--rank-ratio", ratio], calibrated: false },
      })),
    ],
  },
];
