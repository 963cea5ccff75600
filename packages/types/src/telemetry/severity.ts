import * as z from 'zod';

export const Severity = z.enum(['DEBUG', 'INFO', 'WARNING', 'ERROR', 'CRITICAL']).meta({ id: 'Severity' });

export type Severity = z.infer<typeof Severity>;
