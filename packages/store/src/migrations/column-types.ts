import { type RawBuilder, sql } from 'kysely';

/** The few column types that the two databases name differently. */
export interface ColumnTypes {
  bytes: RawBuilder<unknown>;
  float: RawBuilder<unknown>;
}

export const sqliteTypes: ColumnTypes = { bytes: sql`blob`, float: sql`real` };
export const postgresTypes: ColumnTypes = { bytes: sql`bytea`, float: sql`double precision` };
