// Error codes: what headers show that cannot be merged.
import type { ErrorKind } from "./kind.ts";

export const PLAN_CODES = {
  PlanLayersUnequal: {
    meaning: "the models differ in their number of layers",
    retryable: false,
    remedy: "merge models of one depth, or name the layers to merge with `slices`",
  },
  PlanLayersUnknown: {
    meaning: "the recipe names layers, but the model has no one stack of layers",
    retryable: false,
    remedy: "use `models` instead of `slices`",
  },
  PlanLayersOutside: {
    meaning: "the recipe names layers that the model does not have",
    retryable: false,
    remedy: "correct the layer range",
  },
  PlanModuleUnknown: {
    meaning: "the recipe names a module that the model's tensors do not show",
    retryable: false,
    remedy: "name modules as the tensors' names do, such as `language_model` or `vision_tower`",
  },
  PlanModulesIncomplete: {
    meaning: "tensors of the models belong to no module of the recipe",
    retryable: false,
    remedy: "name a module for them, or say in the recipe what to do with such tensors",
  },
  PlanTensorMissing: {
    meaning: "a model lacks a tensor that another one has",
    retryable: false,
    remedy: "merge models of one build, or say in the recipe what to do with such tensors",
  },
  PlanShapeMismatch: {
    meaning: "a tensor has different shapes in two models",
    retryable: false,
    remedy: "merge models of one build",
  },
  PlanDtypeNotMergeable: {
    meaning: "the weights are of a kind that arithmetic is not defined for",
    retryable: false,
    remedy: "merge the models before they are quantized or converted",
  },
  PlanInputCount: {
    meaning: "the method does not take this number of models",
    retryable: false,
    remedy: "list as many models as the method takes",
  },
  PlanMethodRefused: {
    meaning: "the method cannot merge this tensor with these parameters",
    retryable: false,
    remedy: "change the parameters",
  },
  PlanConfigMismatch: {
    meaning: "the models' configs say that they are of different build",
    retryable: false,
    remedy: "merge models of one build",
  },
  PlanMemoryExceeded: {
    meaning: "a tensor cannot be merged within the memory of a worker",
    retryable: false,
    remedy: "allow a worker more memory",
  },
  PlanNothingToMerge: {
    meaning: "the output would have no tensors",
    retryable: false,
    remedy: "check that the models hold weights and that the recipe does not drop them all",
  },
  PlanTokenizerMissing: {
    meaning: "the recipe rebuilds the tokenizer, but a model has none that can be read",
    retryable: false,
    remedy: "put the model's tokenizer.json beside its weights",
  },
  PlanTokenizerInvalid: {
    meaning: "a tokenizer file is not what the tokenizers library writes",
    retryable: false,
    remedy: "write the tokenizer again with the program that made it",
  },
  PlanTokenizerNotSupported: {
    meaning: "the tokenizer has a part that text is not encoded with here",
    retryable: false,
    remedy: "save it as byte pairs with a known pre-tokenizer, or do without (`gate_mode: random`, `--method omp`)",
  },
  PlanDocumentInvalid: {
    meaning: "a small file beside a model's weights cannot be read",
    retryable: false,
    remedy: "write the file again with the program that made it",
  },
  PlanTokenizersDiffer: {
    meaning: "the models' tokenizers are of kinds that have no union",
    retryable: false,
    remedy: "keep one model's vocabulary: `tokenizer: {source: base}`, or the name of a model as its source",
  },
  PlanTokenMissing: {
    meaning: "the recipe takes a token's row from a model that has no such row",
    retryable: false,
    remedy: "name a model that has the token, or a token that the model has",
  },
  PlanAdapterInvalid: {
    meaning: "an adapter is not what PEFT saves",
    retryable: false,
    remedy: "name a folder with adapter_config.json and adapter_model.safetensors, saved by PEFT",
  },
  PlanAdapterNotSupported: {
    meaning: "the adapter is of a kind that is not merged",
    retryable: false,
    remedy: "merge the adapter into its model with the program that trained it, and name the result",
  },
  PlanAdapterUnmatched: {
    meaning: "the adapter has a part that fits no tensor of the model",
    retryable: false,
    remedy: "name the model that the adapter was trained on",
  },
  PlanAdaptersDiffer: {
    meaning: "the adapters cannot be combined in this way",
    retryable: false,
    remedy: "combine adapters of one model; where ranks differ, with `cat`, `svd` or another that ends in `_svd`",
  },
  AlignModelUnknown: {
    meaning: "the names of the model's tensors do not say which of their axes can be permuted",
    retryable: false,
    remedy: 'say it in a file: `--spec FILE` with `{"axes_to_perm": {"tensor": ["P", null]}}`',
  },
  MoeArchitectureRefused: {
    meaning: "no mixture-of-experts architecture takes these dense models",
    retryable: false,
    remedy: "name models of one kind that an architecture takes; docs/recipes.md lists them",
  },
  MoeModelUnknown: {
    meaning: "the model's experts are not of a form that can be merged",
    retryable: false,
    remedy: "name a mixture-of-experts model of the Mixtral, Qwen-MoE or Switch form",
  },
  MoeStatisticsInvalid: {
    meaning: "the routing statistics do not fit the model",
    retryable: false,
    remedy: "collect router logits and uses of this model, or merge with `--data-free`",
  },
  MoeGroupsImpossible: {
    meaning: "there cannot be that many groups of experts",
    retryable: false,
    remedy: "ask for fewer groups",
  },
  TransplantMatrixMissing: {
    meaning: "a model has no embedding or head of the form that a tokenizer's transplant needs",
    retryable: false,
    remedy: "take a language model with a row for each token, and a donor that is one too",
  },
  TransplantSharedTooFew: {
    meaning: "the tokenizers share fewer tokens than a new row is combined of",
    retryable: false,
    remedy: "lower `--k`, or take a donor whose tokenizer is nearer to the model's",
  },
  AlignSpecInvalid: {
    meaning: "the permutations do not fit the model's tensors",
    retryable: false,
    remedy: "give every axis of a tensor its permutation or null, and every permutation axes of one length",
  },
  PlanTooLarge: {
    meaning: "the plan has more tensors than a plan may have",
    retryable: false,
    remedy: "merge fewer layers",
  },
} as const satisfies Record<string, ErrorKind>;
