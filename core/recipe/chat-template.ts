// What a recipe says of the output's chat template. Source: mergekit's `chat_template`, reference section 5.8.
import { MergeyardError } from "../error.ts";
import { CHAT_TEMPLATES } from "../tokenizer/chat-templates.ts";
import { didYouMean, nearestName } from "./nearest.ts";
import { describeValue, fieldPlace, type RecipeOrigin } from "./origin.ts";
import type { MergeConfig } from "./schema.ts";

/** auto: that of most models. */
export type ChatTemplateRecipe = { readonly kind: "auto" } | { readonly kind: "text"; readonly text: string };

/** Shortest text that is taken for a template, as in mergekit. */
const CHARACTERS_MIN = 20;

/** Undefined: the base's is kept. Throws RecipeFieldInvalid for what is neither a known name nor a template. */
export function normaliseChatTemplate(
  { chat_template: written }: MergeConfig,
  origin: RecipeOrigin,
): ChatTemplateRecipe | undefined {
  if (written == null) return undefined;
  if (written === "auto") return { kind: "auto" };
  const known = Object.hasOwn(CHAT_TEMPLATES, written) ? CHAT_TEMPLATES[written] : undefined;
  if (known !== undefined) return { kind: "text", text: known };
  if (written.length >= CHARACTERS_MIN && written.includes("{")) return { kind: "text", text: written };
  const names = Object.keys(CHAT_TEMPLATES);
  const nearest = nearestName(written, ["auto", ...names]);
  throw new MergeyardError("RecipeFieldInvalid", {
    where: fieldPlace(origin, ["chat_template"]),
    found: describeValue(written),
    expected: `auto, ${names.join(", ")}, or a Jinja template of at least ${CHARACTERS_MIN} characters`,
    hint: didYouMean(nearest),
  });
}
