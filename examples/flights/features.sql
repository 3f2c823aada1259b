-- One row a flight: what is known before its day begins, and whether it was late. The past of a route or airport
-- is made of whole earlier days only: every frame below ends at the day before.
CREATE VIEW flights AS
SELECT
    CAST(floor(date_part('epoch', date) / 86400) AS INT) AS day,
    CAST(date_part('hour', date) AS INT) AS hour,
    CAST(date_part('dow', date) AS INT) AS weekday,
    CAST(date_part('month', date) AS INT) AS month,
    CAST(distance AS INT) AS distance,
    CASE WHEN delay > 15 THEN 1 ELSE 0 END AS late,
    origin,
    destination
FROM raw;

CREATE TABLE routes AS
SELECT origin, destination, day, sum(late) AS late, count(*) AS n
FROM flights
GROUP BY origin, destination, day;

CREATE VIEW route_past AS
SELECT origin, destination, day, sum(late) OVER earlier AS late, sum(n) OVER earlier AS n
FROM routes
WINDOW earlier AS (PARTITION BY origin, destination ORDER BY day RANGE BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING);

CREATE VIEW origin_past AS
SELECT origin, day,
    sum(late) OVER earlier AS late, sum(n) OVER earlier AS n,
    sum(late) OVER yesterday AS late_1, sum(n) OVER yesterday AS n_1
FROM (SELECT origin, day, sum(late) AS late, sum(n) AS n FROM routes GROUP BY origin, day)
WINDOW earlier AS (PARTITION BY origin ORDER BY day RANGE BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING),
    yesterday AS (PARTITION BY origin ORDER BY day RANGE BETWEEN 1 PRECEDING AND 1 PRECEDING);

CREATE VIEW destination_past AS
SELECT destination, day,
    sum(late) OVER earlier AS late, sum(n) OVER earlier AS n,
    sum(late) OVER yesterday AS late_1, sum(n) OVER yesterday AS n_1
FROM (SELECT destination, day, sum(late) AS late, sum(n) AS n FROM routes GROUP BY destination, day)
WINDOW earlier AS (PARTITION BY destination ORDER BY day RANGE BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING),
    yesterday AS (PARTITION BY destination ORDER BY day RANGE BETWEEN 1 PRECEDING AND 1 PRECEDING);

-- One row for each route and day, so that the flights need a single join.
CREATE TABLE past AS
SELECT r.origin, r.destination, r.day,
    CASE WHEN r.day < b.first + (b.last - b.first) * 4 / 5 THEN 'train' ELSE 'test' END AS split,
    CAST(r.late AS DOUBLE) / r.n AS route_late,
    CAST(o.late AS DOUBLE) / o.n AS origin_late,
    CAST(o.late_1 AS DOUBLE) / o.n_1 AS origin_late_yesterday,
    CAST(d.late AS DOUBLE) / d.n AS destination_late,
    CAST(d.late_1 AS DOUBLE) / d.n_1 AS destination_late_yesterday
FROM route_past r
JOIN origin_past o ON o.origin = r.origin AND o.day = r.day
JOIN destination_past d ON d.destination = r.destination AND d.day = r.day
CROSS JOIN (SELECT min(day) AS first, max(day) AS last FROM routes) b;

-- Airports, dates and times of departure are gone from here on, and so is the order of the input. Distances are in steps
-- of 50 miles, since an exact one nearly always names its two airports.
SELECT p.split, f.hour, f.weekday, f.month, CAST(round(f.distance / 50.0) * 50 AS INT) AS distance,
    p.route_late, p.origin_late, p.origin_late_yesterday, p.destination_late, p.destination_late_yesterday, f.late
FROM past p
JOIN flights f ON f.origin = p.origin AND f.destination = p.destination AND f.day = p.day
ORDER BY split, month, weekday, hour, distance, route_late, origin_late, origin_late_yesterday, destination_late,
    destination_late_yesterday, late;
