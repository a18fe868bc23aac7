"""Problems from the models and the data of other libraries."""
