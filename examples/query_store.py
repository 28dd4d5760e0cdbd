"""Ask a store with SQL which neurons its concepts share, and how much masks overlap.

python examples/query_store.py STORE
"""

import sys

import duckdb

(store,) = sys.argv[1:]

print("The neurons that most concepts share:")
duckdb.sql(f"""
    SELECT layer, neuron, count(DISTINCT concept) AS concepts, sum(weights) AS weights
    FROM '{store}/objects/neurons/*/*.parquet'
    GROUP BY ALL ORDER BY concepts DESC, weights DESC, layer, neuron LIMIT 10
""").show()

print("How much two masks overlap (Jaccard index over neurons):")
duckdb.sql(f"""
    WITH pruned AS (
        SELECT DISTINCT concept, layer, neuron FROM '{store}/objects/neurons/*/*.parquet'
    ), sizes AS (SELECT concept, count(*) AS size FROM pruned GROUP BY concept)
    SELECT a.concept AS one, b.concept AS other,
           count(*) / (any_value(s.size) + any_value(t.size) - count(*)) AS overlap
    FROM pruned a JOIN pruned b USING (layer, neuron)
    JOIN sizes s ON s.concept = a.concept JOIN sizes t ON t.concept = b.concept
    WHERE a.concept < b.concept
    GROUP BY ALL ORDER BY overlap DESC LIMIT 10
""").show()
