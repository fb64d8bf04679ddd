// Prompts of experts as tokens, by the base's own tokenizer; and what `gate_mode: cheap_embed` makes routers of: rows
// of the base's embedding, those of the tokens. Which rows they are is all that the plan says.
// Source: mergekit `moe/router.py`.
import { MergeyardError } from "../error.ts";
import { PLAN_LIMITS } from "../limits.ts";
import type { MoeExpert } from "../recipe/moe.ts";
import { fieldPlace } from "../recipe/origin.ts";
import { createEncoder, type Encode } from "../tokenizer/encode/encoder.ts";
import {
  documentPlace,
  readDocument,
  SPECIAL_TOKENS_FILE,
  TOKENIZER_CONFIG_FILE,
  TOKENIZER_FILE,
} from "./documents.ts";
import type { MergeModel } from "./merge-task.ts";
import { type BaseTask, EMBEDDING, needTensor } from "./moe-task.ts";
import { ROWS_MEAN, ROWS_ZERO, type RowGather } from "./schema.ts";

/**
 * For experts, [experts, hidden] each: the mean embedding of the tokens of positive prompts, and, where any expert has
 * some, of negative prompts. Zeros stand for none. float32, tokens in the order of the prompts.
 * Throws PlanTokenizerMissing, PlanTokenizerInvalid, PlanTokenizerNotSupported, PlanDocumentInvalid, PlanTokenMissing,
 * PlanTooLarge.
 */
export function createPromptRows(task: BaseTask): (experts: readonly MoeExpert[]) => readonly RowGather[] {
  const tokensOf = createTokens(task);
  return (experts) => {
    const means = (prompts: (expert: MoeExpert) => readonly string[]): RowGather =>
      meanRows(experts.map((expert) => prompts(expert).flatMap((prompt) => tokensOf(prompt, expert))));
    const positive = means((expert) => expert.positive);
    if (experts.every((expert) => expert.negative.length === 0)) return [positive];
    return [positive, means((expert) => expert.negative)];
  };
}

function meanRows(lists: readonly (readonly number[])[]): RowGather {
  const means: RowGather["means"] = [];
  const runs = lists.map((tokens): RowGather["runs"][number] => {
    if (tokens.length === 0) return [ROWS_ZERO, 0, 1];
    means.push(tokens.map((token) => [0, token]));
    return [ROWS_MEAN, means.length - 1, 1];
  });
  return { dtype: "F32", others: [], means, runs };
}

/**
 * Ids of a prompt's tokens, the one that begins a text first, as the reference encodes it. Throws what createPromptRows
 * throws.
 */
export function createTokens(task: BaseTask): (prompt: string, expert: MoeExpert) => readonly number[] {
  const { recipe, moe, base, layers } = task;
  const owner = base.tokenizer.model;
  const [encode, begin] = [openEncoder(task), beginOfText(owner)];
  const [rows = 0] = needTensor(recipe, moe.base, base, EMBEDDING).shape;
  let planned = 0;
  return (prompt, { slice }) => {
    const ids = encode(begin + prompt);
    const where = { ...fieldPlace(recipe.origin, slice.field), model: base.reference.model };
    const outside = ids.find((id) => id >= rows);
    if (outside !== undefined) {
      throw new MergeyardError("PlanTokenMissing", { where, found: `${rows} rows`, expected: `row ${outside}` });
    }
    planned += ids.length * layers;
    if (planned <= PLAN_LIMITS.promptRows) return ids;
    const expected = `at most ${PLAN_LIMITS.promptRows}`;
    const found = `${planned} rows of prompts' tokens in ${layers} layers, or more`;
    throw new MergeyardError("PlanTooLarge", { where, found, expected, hint: "give the experts fewer prompts" });
  };
}

function openEncoder({ recipe, base }: BaseTask): Encode {
  const owner = base.tokenizer.model;
  const bytes = owner.documents?.get(TOKENIZER_FILE);
  if (bytes !== undefined) return createEncoder(bytes, documentPlace(owner, TOKENIZER_FILE));
  throw new MergeyardError("PlanTokenizerMissing", {
    where: { ...fieldPlace(recipe.origin, ["gate_mode"]), model: base.reference.model },
    found: `no ${TOKENIZER_FILE}`,
    expected: `${TOKENIZER_FILE} beside the weights of ${base.reference.model}, to encode the prompts with`,
  });
}

/** Tokenizers that begin texts with `<s>` although their files do not say so. Source: transformers' LlamaTokenizer. */
const LLAMA_TOKENIZER = /^(?:Code)?LlamaTokenizer(?:Fast)?$/;

/** What begins a text; nothing where the tokenizer has no such token. */
function beginOfText(owner: MergeModel): string {
  const config = readDocument(owner, TOKENIZER_CONFIG_FILE) ?? {};
  const { bos_token: said = readDocument(owner, SPECIAL_TOKENS_FILE)?.bos_token, tokenizer_class: kind } = config;
  if (typeof said === "string") return said;
  if (typeof said === "object" && said !== null && "content" in said) return String(said.content);
  return said === undefined && LLAMA_TOKENIZER.test(String(kind)) ? "<s>" : "";
}
