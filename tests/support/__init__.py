"""What tests share: real papads and talks with them, homes for tables, conditions to wait for."""
