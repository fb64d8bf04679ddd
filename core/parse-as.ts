// Outside values by their schema, where the first thing that is wrong is all that an error says.
import type * as z from "zod";

/** The value as the schema has it. Throws what `refuse` makes of the first wrong field's path, and of what is wrong. */
export function parseAs<Schema extends z.ZodType>(
  schema: Schema,
  value: unknown,
  refuse: (field: string, found: string) => Error,
): z.output<Schema> {
  const parsed = schema.safeParse(value);
  if (parsed.success) return parsed.data;
  const [issue] = parsed.error.issues;
  throw refuse(issue?.path.map(String).join(".") ?? "", issue?.message ?? "another form");
}
