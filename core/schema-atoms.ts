// The smallest schemas, which those of records, plans and steps are made of.
import * as z from "zod";
import type { Json } from "./json.ts";

/** Any JSON value. */
export const jsonSchema: z.ZodType<Json> = z.json();
