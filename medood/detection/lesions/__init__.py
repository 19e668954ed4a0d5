"""A network that finds synthetic lesions place by place in the registered radiograph."""
