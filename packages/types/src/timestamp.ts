import * as z from 'zod';

/** An ISO 8601 moment as the wire carries it; our server always sends a zone, older ones may not. */
export const Timestamp = z.iso.datetime({ offset: true, local: true });

export type Timestamp = z.infer<typeof Timestamp>;
