// Chat templates that recipes may name, in the Jinja that transformers renders: how messages become one text. Written
// from each format's description; the names are mergekit's.

/** `[system]`, then `### Instruction:` and `### Response:` blocks; an answer ends with the end of the sequence. */
const alpaca = `{{- bos_token -}}
{%- for message in messages -%}
  {%- if message.role == "system" -%}
    {{- message.content | trim + "\\n\\n" -}}
  {%- elif message.role == "user" -%}
    {{- "### Instruction:\\n" + message.content | trim + "\\n\\n" -}}
  {%- elif message.role == "assistant" -%}
    {{- "### Response:\\n" + message.content | trim + eos_token + "\\n\\n" -}}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
  {{- "### Response:\\n" -}}
{%- endif -%}
`;

/** `<|im_start|>ROLE`, the text, `<|im_end|>`. */
const chatml = `{%- for message in messages -%}
  {{- "<|im_start|>" + message.role + "\\n" + message.content + "<|im_end|>\\n" -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
  {{- "<|im_start|>assistant\\n" -}}
{%- endif -%}
`;

/** `[|ROLE|]` and the text; all turns but the user's end with `[|endofturn|]`; there is always a system turn. */
const exaone = `{%- if messages and messages[0].role != "system" -%}
  {{- "[|system|][|endofturn|]\\n" -}}
{%- endif -%}
{%- for message in messages -%}
  {{- "[|" + message.role + "|]" + message.content -}}
  {%- if message.role != "user" -%}
    {{- "[|endofturn|]" -}}
  {%- endif -%}
  {{- "\\n" -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
  {{- "[|assistant|]" -}}
{%- endif -%}
`;

/** A header with the role, a blank line, the text, `<|eot_id|>`. */
const llama3 = `{{- bos_token -}}
{%- for message in messages -%}
  {{- "<|start_header_id|>" + message.role + "<|end_header_id|>\\n\\n" + message.content | trim + "<|eot_id|>" -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
  {{- "<|start_header_id|>assistant<|end_header_id|>\\n\\n" -}}
{%- endif -%}
`;

/** `[INST] ... [/INST]` around the user's text, with the system's before the first; an answer ends the sequence. */
const mistral = `{{- bos_token -}}
{%- set state = namespace(system="") -%}
{%- for message in messages -%}
  {%- if message.role == "system" -%}
    {%- set state.system = message.content | trim + "\\n\\n" -%}
  {%- elif message.role == "user" -%}
    {{- "[INST] " + state.system + message.content | trim + " [/INST]" -}}
    {%- set state.system = "" -%}
  {%- elif message.role == "assistant" -%}
    {{- " " + message.content | trim + eos_token -}}
  {%- endif -%}
{%- endfor -%}
`;

/** By the name that a recipe writes. */
export const CHAT_TEMPLATES: Readonly<Record<string, string>> = Object.freeze({
  alpaca,
  chatml,
  exaone,
  llama3,
  mistral,
});
