-- The sample database of `sidecart demo` and of the integration tests: a small web shop with 200,000 rows.
-- Run by psql as the owner of an empty database. Everything is computed: the same rows every time.

SET timezone = 'UTC';
SET client_min_messages = warning;
SET maintenance_work_mem = '64MB';

-- A number from 0 to n - 1 that looks random: Knuth's multiplicative hash.
CREATE FUNCTION scatter(i bigint, n bigint) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$ SELECT (i * 2654435761 % 4294967296) % n $$;

CREATE TABLE categories (
    id integer NOT NULL,
    name text NOT NULL
);
CREATE TABLE products (
    id integer NOT NULL,
    category_id integer NOT NULL,
    name text NOT NULL,
    price numeric(10, 2) NOT NULL,
    details jsonb NOT NULL
);
CREATE TABLE customers (
    id integer NOT NULL,
    name text NOT NULL,
    email text NOT NULL,
    country char(2) NOT NULL,
    registered_at timestamptz NOT NULL
);
CREATE TABLE orders (
    id integer GENERATED ALWAYS AS IDENTITY,
    customer_id integer NOT NULL,
    product_id integer NOT NULL,
    quantity integer NOT NULL CHECK (quantity > 0),
    total numeric(12, 2) NOT NULL,
    status text NOT NULL CHECK (status IN ('new', 'paid', 'shipped', 'delivered', 'cancelled')),
    ordered_at timestamptz NOT NULL
);
CREATE TABLE payments (
    id integer GENERATED ALWAYS AS IDENTITY,
    order_id integer NOT NULL,
    method text NOT NULL,
    amount numeric(12, 2) NOT NULL,
    paid_at timestamptz NOT NULL
);
CREATE TABLE reviews (
    id integer GENERATED ALWAYS AS IDENTITY,
    product_id integer NOT NULL,
    customer_id integer NOT NULL,
    stars integer NOT NULL CHECK (stars BETWEEN 1 AND 5),
    body text
);

INSERT INTO categories
SELECT ordinality, name
FROM unnest(ARRAY['Books', 'Music', 'Films', 'Games', 'Toys', 'Garden', 'Kitchen', 'Tools', 'Shoes', 'Shirts', 'Bags',
    'Lamps', 'Chairs', 'Tables', 'Bicycles', 'Tents', 'Cameras', 'Radios', 'Tea', 'Café']) WITH ORDINALITY AS names (name);

INSERT INTO products
SELECT i, 1 + i % 20,
    (ARRAY['Small', 'Large', 'Red', 'Blue', 'Green', 'Light', 'Plain'])[1 + scatter(i, 7)] || ' ' || c.name || ' no. ' || i,
    (199 + scatter(i, 20000)) / 100.0,
    jsonb_build_object('weight_g', 50 + scatter(i, 4000), 'tags', jsonb_build_array('t' || i % 10, 't' || i % 7))
FROM generate_series(1, 980) i JOIN categories c ON c.id = 1 + i % 20;

INSERT INTO customers
SELECT i,
    (ARRAY['Ada', 'Bo', 'Chiara', 'Dmitri', 'Emre', 'Fatima', 'Grace', 'Hiro', 'Inés', 'Jan', 'Kofi'])[1 + scatter(i, 11)]
        || ' ' || (ARRAY['Okafor', 'Silva', 'Novák', 'Tanaka', 'Weber', 'Khan', 'Larsen'])[1 + scatter(i + 7, 7)],
    'customer' || i || '@example.com',
    (ARRAY['DE', 'FR', 'GB', 'IN', 'JP', 'NG', 'US', 'BR'])[1 + scatter(i, 8)],
    timestamptz '2023-01-01 00:00:00+00' + scatter(i, 730) * interval '1 day'
FROM generate_series(1, 20000) i;

INSERT INTO orders (customer_id, product_id, quantity, total, status, ordered_at)
SELECT 1 + scatter(i, 20000), p.id, 1 + i % 4, (1 + i % 4) * p.price,
    -- Three in five orders are paid for: 60,000 payments.
    CASE i % 5 WHEN 0 THEN 'new' WHEN 1 THEN 'paid' WHEN 2 THEN 'shipped' WHEN 3 THEN 'delivered' ELSE 'cancelled' END,
    timestamptz '2025-01-01 00:00:00+00' + i * interval '5 minutes'
FROM generate_series(1, 100000) i JOIN products p ON p.id = 1 + scatter(i + 3, 980)
ORDER BY i;

INSERT INTO payments (order_id, method, amount, paid_at)
SELECT id, (ARRAY['card', 'transfer', 'invoice'])[1 + id % 3], total, ordered_at + interval '10 minutes'
FROM orders WHERE status IN ('paid', 'shipped', 'delivered')
ORDER BY id;

INSERT INTO reviews (product_id, customer_id, stars, body)
SELECT 1 + scatter(i, 980), 1 + scatter(i + 11, 20000), 1 + scatter(i, 5),
    CASE WHEN i % 3 > 0 THEN 'Review no. ' || i || ': it''s ' || (ARRAY['fine', 'good', 'très bien'])[1 + i % 3] END
FROM generate_series(1, 19000) i;

ALTER TABLE categories ADD PRIMARY KEY (id), ADD UNIQUE (name);
ALTER TABLE products ADD PRIMARY KEY (id), ADD FOREIGN KEY (category_id) REFERENCES categories;
ALTER TABLE customers ADD PRIMARY KEY (id), ADD UNIQUE (email);
ALTER TABLE orders ADD PRIMARY KEY (id), ADD FOREIGN KEY (customer_id) REFERENCES customers,
    ADD FOREIGN KEY (product_id) REFERENCES products;
ALTER TABLE payments ADD PRIMARY KEY (id), ADD UNIQUE (order_id), ADD FOREIGN KEY (order_id) REFERENCES orders;
ALTER TABLE reviews ADD PRIMARY KEY (id), ADD FOREIGN KEY (product_id) REFERENCES products,
    ADD FOREIGN KEY (customer_id) REFERENCES customers;
CREATE INDEX ON products (category_id);
CREATE INDEX ON orders (customer_id);
CREATE INDEX ON orders (product_id);
CREATE INDEX ON orders (ordered_at);
CREATE INDEX ON reviews (product_id);
CREATE INDEX ON reviews (customer_id);

CREATE VIEW monthly_revenue AS
SELECT date_trunc('month', paid_at AT TIME ZONE 'UTC')::date AS month, count(*) AS payments, sum(amount) AS revenue
FROM payments GROUP BY 1;

CREATE VIEW open_orders AS
SELECT o.id, c.name AS customer, p.name AS product, o.quantity, o.total, o.ordered_at
FROM orders o JOIN customers c ON c.id = o.customer_id JOIN products p ON p.id = o.product_id
WHERE o.status IN ('new', 'paid');

-- Reads of each volatility. What they do decides whether they are let through, not what they say of themselves.
CREATE FUNCTION with_tax(net numeric, percent numeric DEFAULT 19) RETURNS numeric LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$ SELECT round(net * (1 + percent / 100), 2) $$;

CREATE FUNCTION spent_by(customer integer) RETURNS numeric LANGUAGE sql STABLE
AS $$ SELECT coalesce(sum(amount), 0) FROM payments JOIN orders ON orders.id = order_id WHERE customer_id = customer $$;

CREATE FUNCTION order_label(number integer) RETURNS text LANGUAGE plpgsql VOLATILE
AS $$ BEGIN RETURN (SELECT format('no. %s, %s', id, status) FROM orders WHERE id = number); END $$;

-- Holes, for `sidecart doctor` to find: everybody may write to a table, and temporary tables are everybody's by default.
-- SideCart refuses to use them, and `sidecart role --apply --revoke-public` closes them.
CREATE TABLE newsletter (email text NOT NULL, added_at timestamptz NOT NULL DEFAULT now());
GRANT INSERT ON newsletter TO PUBLIC;

-- One more: a write that hides in a SELECT. It runs with the rights of its owner, whoever calls it.
CREATE FUNCTION cancel_order(number integer) RETURNS text LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = public, pg_temp
AS $$ BEGIN UPDATE orders SET status = 'cancelled' WHERE id = number; RETURN 'cancelled'; END $$;

ANALYZE;
